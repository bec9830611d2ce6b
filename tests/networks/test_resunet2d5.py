import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.networks import ResUNet2d5

PLANE, CUBE, POINT = (3, 3, 1), (3, 3, 3), (1, 1, 1)
HALVE, KEEP = (2, 2, 1), (1, 1, 1)


def convolutions(module):
    """(inputs, outputs, kernel, stride) of each convolution in its order of definition."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv3d)]
    assert all(layer.padding == tuple(k // 2 for k in layer.kernel_size) for layer in layers)
    assert all(layer.bias is not None for layer in layers)
    return [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in layers]


def expected_stage(n_in, n_out):
    first = [(n_in, n_out, PLANE, HALVE), (n_out, n_out, CUBE, KEEP), (n_in, n_out, POINT, HALVE)]
    return first + 4 * [(n_out, n_out, CUBE, KEEP)]


def test_every_convolution_is_the_papers():
    net = ResUNet2d5(out_channels=4)
    assert convolutions(net.stem) == [(1, 32, PLANE, HALVE), (32, 32, CUBE, KEEP)]
    for down, n in zip(net.downs, (32, 64, 128), strict=True):
        assert convolutions(down) == expected_stage(n, 2 * n)
    for decoder, n in zip(net.decoders, (128, 64, 32), strict=True):
        assert convolutions(decoder) == [(3 * n, n, CUBE, KEEP), (n, n, CUBE, KEEP)]
    assert convolutions(net.head) == [(32, 4, POINT, KEEP)]
    assert convolutions(net.deep_heads) == [(n, 4, POINT, KEEP) for n in (32, 64, 128)]
    assert net.up.scale_factor == HALVE
    assert (net.up.mode, net.up.align_corners) == ("trilinear", False)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.InstanceNorm3d)]
    assert len(norms) == 2 + 3 * 7 + 3 * 2  # every convolution but the heads
    assert not any(norm.affine or norm.track_running_stats for norm in norms)


def test_parameter_count_is_the_papers():
    net = ResUNet2d5(out_channels=4)
    count = sum(p.numel() for p in net.parameters())
    by_hand = sum(k[0] * k[1] * k[2] * n_in * n_out + n_out for n_in, n_out, k, _ in convolutions(net))
    assert count == by_hand == 14_397_296
    assert abs(count / 14.4e6 - 1) < 0.01


def in_plain_torch(net, x):
    """The network written out, as the paper's code has it: the last features enlarged, then the head."""
    relu, norm = F.relu, F.instance_norm
    weights = [layer for layer in net.modules() if isinstance(layer, nn.Conv3d)]

    def conv(x):
        layer = weights.pop(0)
        return F.conv3d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    def up(x):
        return F.interpolate(x, scale_factor=(2.0, 2.0, 1.0), mode="trilinear", align_corners=False)

    x = relu(norm(conv(relu(norm(conv(x))))))
    skips = []
    for _ in net.downs:
        skips.append(x)
        y = norm(conv(relu(norm(conv(x)))))
        x = relu(y + norm(conv(x)))
        for _ in range(2):
            x = relu(norm(conv(relu(norm(conv(x))))) + x)
    stages = []
    for _ in net.decoders:
        x = relu(norm(conv(relu(norm(conv(torch.cat([up(x), skips.pop()], 1)))))))
        stages.insert(0, x)
    return [conv(up(x)), *[conv(stage) for stage in stages]]


def test_outputs_are_those_of_the_network_written_out():
    torch.manual_seed(0)
    net = ResUNet2d5(channels=(2, 4, 6, 8)).train()
    x = torch.rand(2, 1, 32, 48, 5)
    with torch.no_grad():
        outputs, expected = net(x), in_plain_torch(net, x)
        assert [tuple(o.shape) for o in outputs] == [(2, 3, 32 // d, 48 // d, 5) for d in (1, 2, 4, 8)]
        for output, wanted in zip(outputs, expected, strict=True):
            assert torch.allclose(output, wanted, atol=1e-5)
        assert torch.allclose(net.eval()(x), expected[0], atol=1e-5)


def test_slice_axis_may_have_any_length_and_odd_slices_are_refused():
    net = ResUNet2d5(channels=(2, 2, 2, 2)).eval()
    assert net.divisor == (16, 16, 1)
    assert net(torch.rand(1, 1, 32, 16, 7)).shape == (1, 3, 32, 16, 7)
    with pytest.raises(ValueError, match=r"divisible by \(16, 16, 1\)"):
        net(torch.rand(1, 1, 24, 16, 7))


def test_each_head_reaches_its_part_of_the_network():
    net = ResUNet2d5(channels=(2, 2, 2, 2))
    outputs = net(torch.rand(1, 1, 32, 32, 4))
    outputs[3].square().sum().backward()
    assert net.stem[0].conv.weight.grad.abs().sum() > 0
    assert net.decoders[0][1].conv.weight.grad.abs().sum() > 0
    assert net.decoders[1][0].conv.weight.grad is None
    assert net.head.weight.grad is None
    sum(output.square().sum() for output in net(torch.rand(1, 1, 32, 32, 4))).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_torchscript_gives_the_same():
    torch.manual_seed(0)
    net = ResUNet2d5(channels=(2, 4, 4, 4)).eval()
    x = torch.rand(1, 1, 32, 32, 4)
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(net)(x), net(x), atol=1e-6)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="channels"):
        ResUNet2d5(channels=(8,))
