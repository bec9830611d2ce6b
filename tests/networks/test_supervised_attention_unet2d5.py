import pytest
import torch
from torch import nn

from crossmoda.networks import SupervisedAttentionUNet2d5

CHANNELS = (16, 32, 48, 64, 80, 96)
KERNELS = ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
SMALL = (2, 4, 4, 4, 4, 4)


def convolutions(module):
    """(in, out, kernel, stride) of each convolution, as they stand."""
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d))]
    return [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in layers]


def unit(n_in, n_out, kernel, subunits):
    """Convolutions of a residual unit, the 1x1x1 shortcut last."""
    first = [(n_in, n_out, kernel, (1, 1, 1))]
    shortcut = [(n_in, n_out, (1, 1, 1), (1, 1, 1))] if n_in != n_out else []
    return first + [(n_out, n_out, kernel, (1, 1, 1))] * (subunits - 1) + shortcut


def gate(channels, kernel):
    return [(channels, channels // 2, kernel, (1, 1, 1)), (channels // 2, 1, kernel, (1, 1, 1))]


def test_each_layer_has_the_kernel_and_stride_of_vs_seg():
    net = SupervisedAttentionUNet2d5()
    inputs = (1, *CHANNELS)
    for level in range(5):
        assert convolutions(net.encoders[level]) == unit(inputs[level], CHANNELS[level], KERNELS[level], 2)
        down = (CHANNELS[level], CHANNELS[level], KERNELS[level], STRIDES[level])
        assert convolutions(net.downs[level]) == [down]
    assert convolutions(net.bottom) == gate(80, KERNELS[5]) + unit(80, 96, KERNELS[5], 2)
    for up, decoder, level in zip(net.ups, net.decoders, range(4, -1, -1), strict=True):
        assert convolutions(up) == [(CHANNELS[level + 1], CHANNELS[level], KERNELS[level], STRIDES[level])]
        assert isinstance(up.conv, nn.ConvTranspose3d)
        n_in, n_out = 2 * CHANNELS[level], CHANNELS[level] if level else 3
        assert convolutions(decoder) == gate(n_in, KERNELS[level]) + unit(n_in, n_out, KERNELS[level], 1)


def test_convolutions_are_followed_by_norm_dropout_and_prelu():
    net = SupervisedAttentionUNet2d5()
    blocks = [*net.encoders[0].conv, net.downs[2], net.bottom.unit.conv[1], net.ups[0], net.decoders[3].unit.conv[0]]
    for block in blocks:
        assert [type(layer) for layer in block.adn] == [nn.BatchNorm3d, nn.Dropout, nn.PReLU]
        assert block.adn.D.p == 0.1
    (last,) = net.decoders[4].unit.conv  # makes the logits
    assert [type(layer) for layer in last.children()] == [nn.Conv3d]


def count_by_hand(n_in, n_out):
    """Weights and biases: conv k*c_in*c_out + c_out, batch norm 2c, PReLU 1."""

    def volume(size):
        return size[0] * size[1] * size[2]

    def conv(c_in, c_out, kernel):
        return volume(kernel) * c_in * c_out + c_out

    def normed(c_in, c_out, kernel):
        return conv(c_in, c_out, kernel) + 2 * c_out + 1

    def attention(c, kernel):
        return conv(c, c // 2, kernel) + conv(c // 2, 1, kernel)

    total, previous = 0, n_in
    for c, kernel in zip(CHANNELS, KERNELS, strict=True):
        total += normed(previous, c, kernel) + normed(c, c, kernel) + conv(previous, c, (1, 1, 1))
        previous = c
    total += attention(CHANNELS[-2], KERNELS[-1])
    for level in range(5):
        c, kernel = CHANNELS[level], KERNELS[level]
        total += normed(c, c, kernel) + normed(CHANNELS[level + 1], c, kernel) + attention(2 * c, kernel)
        last = conv(2 * c, n_out, kernel) if level == 0 else normed(2 * c, c, kernel)
        total += last + conv(2 * c, n_out if level == 0 else c, (1, 1, 1))
    return total


@pytest.mark.parametrize("classes", [2, 3])
def test_parameter_count_is_that_of_vs_seg(classes):
    count = sum(p.numel() for p in SupervisedAttentionUNet2d5(out_channels=classes).parameters())
    assert count == count_by_hand(1, classes)
    assert count == pytest.approx(3.45e6, rel=0.01)
    assert count == {2: 3453012, 3: 3453334}[classes]  # their code with MONAI 1.6's layers


def test_training_gives_the_maps_too_and_evaluation_the_logits_alone():
    net = SupervisedAttentionUNet2d5(channels=SMALL)
    assert net.divisor == (32, 32, 8)
    x = torch.rand(2, 1, 64, 32, 16)
    logits, *maps = net.train()(x)
    assert logits.shape == (2, 3, 64, 32, 16)
    sizes = [(2, 1, 2), (4, 2, 4), (8, 4, 8), (16, 8, 16), (32, 16, 16), (64, 32, 16)]
    assert [item.shape for item in maps] == [(2, 1, *size) for size in sizes]
    assert all(item.min() > 0 and item.max() < 1 for item in maps)
    assert net.eval()(x).shape == (2, 3, 64, 32, 16)


def test_a_map_raises_its_level_by_up_to_twice():
    torch.manual_seed(0)
    block = SupervisedAttentionUNet2d5(channels=SMALL).eval().bottom
    seen = []
    block.unit.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    x = torch.rand(1, 4, 3, 3, 2) + 0.1
    _, attention_map = block(x)
    expected = torch.sigmoid(block.attention.map[2](torch.relu(block.attention.map[0](x))))
    assert torch.allclose(attention_map, expected)
    assert torch.allclose(seen[0], x + x * attention_map)


def test_every_layer_learns():
    net = SupervisedAttentionUNet2d5(channels=SMALL)
    logits, *_ = net(torch.rand(2, 1, 32, 32, 16))
    logits.square().mean().backward()  # through the maps, but not of them
    assert not [name for name, weight in net.named_parameters() if weight.grad is None]


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"divisible by \(32, 32, 8\)"):
        SupervisedAttentionUNet2d5(channels=SMALL)(torch.rand(1, 1, 32, 48, 8))
    with pytest.raises(ValueError, match="levels"):
        SupervisedAttentionUNet2d5(channels=(8, 16), num_2d_levels=2)


def test_torchscript_gives_the_logits():
    torch.manual_seed(0)
    net = SupervisedAttentionUNet2d5(channels=SMALL).eval()
    x = torch.rand(1, 1, 32, 32, 8)
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(net)(x), net(x), atol=1e-6)
