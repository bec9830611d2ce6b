import pytest
import torch
from torch import nn

from crossmoda.networks import UNet2d5
from crossmoda.networks.unet2d5 import SpatialAttention

CHANNELS = (16, 32, 48, 64, 80)


def convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv3d)]


def test_levels_have_the_kernels_and_strides_of_the_paper():
    net = UNet2d5()
    kernels = [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    strides = [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    assert [pool.kernel_size for pool in net.pools] == strides
    assert [pool.stride for pool in net.pools] == strides
    assert [up.stride for up in net.ups] == strides[::-1]
    assert [up.kernel_size for up in net.ups] == strides[::-1]
    for level, block in enumerate([*net.encoders, net.bottom[1]]):
        layers = convolutions(block)
        assert [layer.kernel_size for layer in layers] == [kernels[level]] * 2
        assert [layer.out_channels for layer in layers] == [CHANNELS[level]] * 2
    for level, decoder in zip((3, 2, 1, 0), net.decoders, strict=True):
        assert {layer.kernel_size for layer in convolutions(decoder)} == {kernels[level]}
    assert all(layer.stride == (1, 1, 1) for layer in convolutions(net))


def count_by_hand(channels, n_in, n_out, attention):
    """Weights and biases, level by level: conv k*c_in*c_out + c_out, batch norm 2c, PReLU 1."""

    def conv(c_in, c_out, k):
        return k * c_in * c_out + c_out

    def block(c_in, c_out, k):
        return conv(c_in, c_out, k) + conv(c_out, c_out, k) + 2 * (2 * c_out + 1)

    def gate(c, k):
        return conv(c, c // 2, k) + conv(c // 2, 1, k) if attention else 0

    volume = [9, 9, 27, 27, 27]
    pooled = [4, 4, 8, 8]
    total = 0
    previous = n_in
    for c, k in zip(channels[:-1], volume[:-1], strict=True):
        total += block(previous, c, k)
        previous = c
    total += gate(channels[-2], volume[-1]) + block(channels[-2], channels[-1], volume[-1])
    for level in range(4):
        c, k = channels[level], volume[level]
        total += conv(channels[level + 1], c, pooled[level]) + gate(2 * c, k) + block(2 * c, c, k)
    return total + conv(channels[0], n_out, 1)


@pytest.mark.parametrize("attention", [True, False])
def test_parameter_count_is_the_one_counted_by_hand(attention):
    net = UNet2d5(attention=attention)
    assert sum(p.numel() for p in net.parameters()) == count_by_hand(CHANNELS, 1, 3, attention)


def test_attention_is_one_plus_a_map_between_zero_and_one():
    torch.manual_seed(0)
    gate = SpatialAttention(4, (3, 3, 1))
    x = torch.rand(2, 4, 6, 6, 3) + 0.1
    ratio = gate(x) / x
    assert torch.allclose(ratio, (1 + gate.map(x)).expand_as(ratio), atol=1e-5)
    assert ratio.min() > 1
    assert ratio.max() < 2


def test_two_dimensional_levels_do_not_mix_slices():
    net = UNet2d5(channels=(2, 2, 2), num_2d_levels=2).eval()
    x = torch.rand(1, 1, 8, 8, 4)
    changed = x.clone()
    changed[..., 3] = 0
    with torch.no_grad():
        features = [net.encoders[1](net.pools[0](net.encoders[0](image))) for image in (x, changed)]
    assert torch.equal(features[0][..., :3], features[1][..., :3])
    assert not torch.equal(features[0][..., 3], features[1][..., 3])


def test_output_has_the_input_size_and_odd_sizes_are_refused():
    net = UNet2d5(channels=(2, 2, 2, 2, 2), out_channels=3)
    assert net.divisor == (16, 16, 4)
    assert net(torch.rand(2, 1, 32, 16, 8)).shape == (2, 3, 32, 16, 8)
    with pytest.raises(ValueError, match=r"divisible by \(16, 16, 4\)"):
        net(torch.rand(1, 1, 32, 16, 6))


def test_torchscript_gives_the_same():
    torch.manual_seed(0)
    net = UNet2d5(channels=(2, 4, 4, 4, 4)).eval()
    x = torch.rand(1, 1, 16, 16, 4)
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(net)(x), net(x), atol=1e-6)


def test_wrong_levels_are_refused():
    with pytest.raises(ValueError, match="levels"):
        UNet2d5(channels=(8, 16), num_2d_levels=2)


def test_norm_is_chosen_by_monais_names():
    norms = [m for m in UNet2d5(norm=("batch", {"momentum": 0.02})).modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert len(norms) == 2 * 9  # five levels down, four up, two a block
    assert {norm.momentum for norm in norms} == {0.02}
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in UNet2d5(norm="instance").modules())
