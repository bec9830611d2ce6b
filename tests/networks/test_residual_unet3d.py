import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.networks import ResidualUNet3d
from crossmoda.networks.residual_unet3d import AttentionGate

CHANNELS = (16, 32, 64, 128, 256)
SMALL = (2, 3, 4, 5, 6)
BOTH = pytest.mark.parametrize("attention", [False, True], ids=["plain", "attention"])


def convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv3d)]


@BOTH
def test_every_layers_kernel_stride_and_channels(attention):
    net = ResidualUNet3d(attention=attention)

    def described(block):
        layers = [getattr(block, name).conv for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
        assert len(layers) == len(convolutions(block))
        return [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.padding) for layer in layers]

    def residual(n_in, n_out):
        cube, one = ((3, 3, 3), (1, 1, 1)), ((1, 1, 1), (0, 0, 0))
        return [(n_in, n_out, *cube), (n_out, n_out, *cube), (n_in, n_out, *one)]

    assert [described(block) for block in net.encoders] == [
        residual(*pair) for pair in ((1, 16), (16, 32), (32, 64), (64, 128), (128, 256))
    ]
    assert [described(level.block) for level in net.decoders] == [
        residual(256 + 128, 128),
        residual(128 + 64, 64),
        residual(64 + 32, 32),
        residual(32 + 16, 16),
    ]
    assert [(head.in_channels, head.out_channels, head.kernel_size) for head in net.heads] == [
        (n, 3, (1, 1, 1)) for n in (128, 64, 32, 16)
    ]
    assert all(layer.stride == (1, 1, 1) for layer in convolutions(net))
    assert (net.pool.kernel_size, net.pool.stride) == (2, 2)
    assert {(up.scale_factor, up.mode) for up in (net.up, *(level.up for level in net.decoders))} == {(2.0, "nearest")}
    assert not any(isinstance(layer, nn.ConvTranspose3d) for layer in net.modules())
    gates = [level.gate for level in net.decoders]
    if not attention:
        assert gates == [None] * 4
        return
    for gate, below, n in zip(gates, (256, 128, 64, 32), (128, 64, 32, 16), strict=True):
        layers = (gate.of_gating, gate.of_skip, gate.to_map)
        assert [(layer.in_channels, layer.out_channels) for layer in layers] == [
            (below, n // 2),
            (n, n // 2),
            (n // 2, 1),
        ]
        assert {layer.kernel_size for layer in layers} == {(1, 1, 1)}


def test_norms_and_activations():
    net = ResidualUNet3d(channels=SMALL)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.InstanceNorm3d)]
    assert len(norms) == 3 * 9  # two a block and one of its shortcut; five levels down, four up
    assert all(norm.affine for norm in norms)
    slopes = {layer.negative_slope for layer in net.modules() if isinstance(layer, nn.LeakyReLU)}
    assert slopes == {0.01}
    batch = ResidualUNet3d(channels=SMALL, norm=("batch", {"momentum": 0.02}))
    assert not any(isinstance(layer, nn.InstanceNorm3d) for layer in batch.modules())


def count_by_hand(channels, n_in, n_out, attention):
    """Weights and biases: block 27 (a b + b b) + a b without biases, three norms of 2 b; gate and head with biases."""

    def block(a, b):
        return 27 * (a * b + b * b) + (a * b if a != b else 0) + 2 * b * (3 if a != b else 2)

    total = sum(block(a, b) for a, b in zip((n_in, *channels), channels, strict=False))
    for below, b in zip(channels[1:], channels[:-1], strict=True):
        inner = b // 2
        gate = (below * inner + inner) + b * inner + (inner + 1)
        total += block(below + b, b) + (b * n_out + n_out) + (gate if attention else 0)
    return total


@pytest.mark.parametrize(("attention", "known"), [(False, 5_996_508), (True, 6_029_392)])
def test_parameter_count_is_the_one_counted_by_hand(attention, known):
    count = sum(p.numel() for p in ResidualUNet3d(attention=attention).parameters())
    assert count == count_by_hand(CHANNELS, 1, 3, attention) == known


def reference(net, x, attention):
    """The network written out with functions on its state dict, output adding as one sum over the levels."""
    state = net.state_dict()

    def conv(x, name, padding=0):
        return F.conv3d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    def norm(x, name):
        mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, unbiased=False)
        shape = (1, -1, 1, 1, 1)
        return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(
            shape
        )

    def block(x, name):
        y = F.leaky_relu(norm(conv(x, f"{name}.conv1.conv", 1), f"{name}.norm1"), 0.01)
        y = norm(conv(y, f"{name}.conv2.conv", 1), f"{name}.norm2")
        if f"{name}.norm3.weight" in state:
            x = norm(conv(x, f"{name}.conv3.conv"), f"{name}.norm3")
        return F.leaky_relu(y + x, 0.01)

    def enlarge(x, factor):
        for axis in (2, 3, 4):
            x = x.repeat_interleave(factor, dim=axis)
        return x

    features = []
    for level in range(5):
        x = block(x if level == 0 else F.max_pool3d(x, 2), f"encoders.{level}")
        features.append(x)
    total = 0
    for place, level in enumerate((3, 2, 1, 0)):
        g, skip = enlarge(x, 2), features[level]
        if attention:
            gate = f"decoders.{place}.gate"
            inner = conv(g, f"{gate}.of_gating") + conv(skip, f"{gate}.of_skip")
            skip = skip * torch.sigmoid(conv(inner.clamp_min(0), f"{gate}.to_map"))
        x = block(torch.cat([skip, g], dim=1), f"decoders.{place}.block")
        total = total + enlarge(conv(x, f"heads.{place}"), 2**level)
    return total


@BOTH
def test_against_an_independent_formulation(attention):
    torch.manual_seed(0)
    net = ResidualUNet3d(2, 4, SMALL, attention=attention).double()  # the first block's shortcut is the identity
    for layer in net.modules():
        if isinstance(layer, nn.InstanceNorm3d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    x = torch.rand(2, 2, 32, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(net, x, attention)
        assert torch.allclose(net.train()(x), expected, atol=1e-9)
        assert torch.allclose(net.eval()(x), expected, atol=1e-9)


def test_gate_by_hand():
    gate = AttentionGate(1, 1, 1)
    weights = {"of_gating.weight": 2.0, "of_gating.bias": 1.0, "of_skip.weight": -1.0, "to_map.weight": 0.5}
    with torch.no_grad():
        for name, parameter in gate.named_parameters():
            parameter.fill_(weights.get(name, -1.0))  # to_map.bias
        skip = torch.tensor([3.0, 5.0]).view(1, 1, 2, 1, 1)
        out = gate(torch.tensor([1.5, 0.5]).view(1, 1, 2, 1, 1), skip).flatten()
    # sums 2 * 1.5 + 1 - 3 = 1 and 2 * 0.5 + 1 - 5 = -3 -> 0; maps of 0.5 * 1 - 1 and of -1
    expected = torch.tensor([3.0, 5.0]) * torch.sigmoid(torch.tensor([-0.5, -1.0]))
    assert torch.allclose(out, expected)


@BOTH
def test_every_level_is_supervised_by_the_one_output(attention):
    """Output adding is the deep supervision: each head gets a gradient of its own."""
    torch.manual_seed(0)
    net = ResidualUNet3d(channels=SMALL, attention=attention)
    out = net(torch.rand(1, 1, 32, 32, 16))
    assert isinstance(out, torch.Tensor)
    assert out.shape == (1, 3, 32, 32, 16)
    F.cross_entropy(out, torch.randint(3, (1, 32, 32, 16))).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in net.heads)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    # The bias of the coarsest head moves every voxel's logits alike: it is enlarged and added, nothing else.
    assert torch.allclose(net.heads[0].bias.grad, net.heads[3].bias.grad, atol=1e-6)


@BOTH
def test_torchscript_gives_the_same(attention):
    torch.manual_seed(0)
    net = ResidualUNet3d(channels=SMALL, attention=attention).eval()
    x = torch.rand(1, 1, 32, 16, 16)
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(net)(x), net(x), atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    net = ResidualUNet3d(channels=SMALL)
    assert net.divisor == 16
    assert net(torch.rand(1, 1, 16, 32, 48)).shape == (1, 3, 16, 32, 48)  # Li's 48 slices: at most four poolings
    with pytest.raises(ValueError, match="must be divisible by 32"):
        ResidualUNet3d(channels=(*SMALL, 7))(torch.rand(1, 1, 32, 32, 48))
    for shape in ((32, 32, 8), (40, 32, 16), (16, 16, 16)):
        with pytest.raises(ValueError, match="must be divisible by 16, and one of them larger"):
            net(torch.rand(1, 1, *shape))
    with pytest.raises(ValueError, match="levels"):
        ResidualUNet3d(channels=(8,))
