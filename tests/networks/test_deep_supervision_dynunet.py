"""DeepSupervisionDynUNet: the layers of nnU-Net's 3D and 2D plans, its outputs, and MONAI's weights."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import nn

from crossmoda.networks import DeepSupervisionDynUNet

STRIDES = [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1)]
KERNELS = [(3, 3, 1)] + [(3, 3, 3)] * 5
FEATURES = [32, 64, 128, 256, 320, 320]
SMALL = [4, 6, 8, 10, 12, 12]


def build(features=FEATURES, strides=STRIDES, kernels=KERNELS, num_heads=3, **more):
    return DeepSupervisionDynUNet(1, 3, strides, kernels, strides[1:], features, num_heads=num_heads, **more)


def layers(module):
    """(kind, in, out, kernel, stride) of each convolution in the order of building."""
    kinds = {nn.Conv3d: "conv", nn.ConvTranspose3d: "up"}
    found = [layer for layer in module.modules() if type(layer) in kinds]
    return [(kinds[type(m)], m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in found]


def test_each_layer_of_the_3d_plan():
    net = build()
    one = (1, 1, 1)
    encoder = []
    for stage, (n_in, n_out) in enumerate(zip([1, *FEATURES], FEATURES, strict=False)):
        encoder.append(("conv", n_in, n_out, KERNELS[stage], STRIDES[stage]))
        encoder.append(("conv", n_out, n_out, KERNELS[stage], one))
    assert layers(net.input_block) + layers(net.downsamples) + layers(net.bottleneck) == encoder
    decoder = []
    for stage in (4, 3, 2, 1, 0):
        n, below, stride = FEATURES[stage], FEATURES[stage + 1], STRIDES[stage + 1]
        decoder.append(("up", below, n, stride, stride))
        decoder.append(("conv", 2 * n, n, KERNELS[stage + 1], one))
        decoder.append(("conv", n, n, KERNELS[stage + 1], one))
    assert layers(net.upsamples) == decoder
    assert layers(net.output_block) == [("conv", 32, 3, one, one)]
    assert layers(net.deep_supervision_heads) == [("conv", n, 3, one, one) for n in (64, 128, 256)]


def test_norms_and_biases_are_nnunets():
    net = build(SMALL)
    norms = [m for m in net.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == 22  # two a stage: 6 in the encoder, 5 in the decoder
    assert all(norm.affine for norm in norms)
    slopes = {m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}
    heads = [net.output_block, *net.deep_supervision_heads]
    with_bias = [m for m in net.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d) and m.bias is not None]
    assert with_bias == [head.conv.conv for head in heads]


def by_hand(features, strides, kernels, num_heads, classes=3):
    """Parameters counted from the plan alone: convolutions without bias, norms with two values a channel."""

    def volume(kernel):
        return kernel[0] * kernel[1] * kernel[2]

    total, n_in = 0, 1
    for n, kernel in zip(features, kernels, strict=True):
        total += (n_in * n + n * n) * volume(kernel) + 4 * n
        n_in = n
    for stage in range(len(features) - 1):
        n, below = features[stage], features[stage + 1]
        total += below * n * volume(strides[stage + 1]) + 3 * n * n * volume(kernels[stage + 1]) + 4 * n
    return total + sum(n * classes + classes for n in features[: num_heads + 1])


TWO_D = ([32, 64, 128, 256, 512, 512, 512], [(1, 1, 1)] + [(2, 2, 1)] * 6, [(3, 3, 1)] * 7, 4)


@pytest.mark.parametrize(
    ("plan", "millions"),
    [
        ((FEATURES, STRIDES, KERNELS, 3), 30.7),  # 40 x 256 x 192
        (([*FEATURES, 320], [*STRIDES, (2, 1, 1)], [*KERNELS, (3, 3, 3)], 4), 44.7),  # with a sixth pooling
        (TWO_D, 33.4),
    ],
    ids=["3D", "six poolings", "2D"],
)
def test_parameter_counts(plan, millions):
    features, strides, kernels, num_heads = plan
    with torch.device("meta"):
        net = build(features, strides, kernels, num_heads)
    count = sum(p.numel() for p in net.parameters())
    assert count == by_hand(*plan)
    assert abs(count / (millions * 1e6) - 1) < 0.01


def test_decoder_kernels_of_the_second_version():
    net = build(SMALL, decoder_kernel_size=KERNELS[:-1])
    kernels = [[layer[3] for layer in layers(up.conv_block)] for up in net.upsamples]
    assert kernels == [[(3, 3, 3)] * 2] * 4 + [[(3, 3, 1)] * 2]
    assert [layer[3] for layer in layers(net.downsamples[0])] == [(3, 3, 3)] * 2


def test_outputs_at_their_own_resolutions_and_one_at_inference():
    net = build(SMALL)
    x = torch.rand(2, 1, 64, 64, 16)
    shapes = [tuple(output.shape) for output in net.train()(x)]
    assert shapes == [(2, 3, 64, 64, 16), (2, 3, 32, 32, 16), (2, 3, 16, 16, 8), (2, 3, 8, 8, 4)]
    full = net.eval()(x)
    assert isinstance(full, torch.Tensor)
    assert torch.allclose(full, net.train()(x)[0], atol=1e-6)  # instance norm: the same in both modes
    assert isinstance(build(SMALL, num_heads=0).train()(x), list)


def test_dynunet_gives_the_same_and_its_weights_load():
    torch.manual_seed(0)
    settings = {"deep_supervision": True, "deep_supr_num": 3, "filters": SMALL}
    monai_net = DynUNet(3, 1, 3, KERNELS, STRIDES, STRIDES[1:], norm_name=("INSTANCE", {"affine": True}), **settings)
    net = build(SMALL)
    net.load_state_dict(monai_net.state_dict())
    x = torch.rand(1, 1, 64, 64, 16)
    stacked = monai_net.train()(x)
    for i, output in enumerate(net.train()(x)):
        enlarged = nn.functional.interpolate(output, x.shape[2:])
        assert torch.allclose(stacked[:, i], enlarged, atol=1e-5)
    assert torch.allclose(monai_net.eval()(x), net.eval()(x), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_torchscript(training):
    net = build(SMALL).train(training)
    x = torch.rand(1, 1, 64, 64, 16)
    expected, scripted = net(x), torch.jit.script(net)(x)
    for a, b in zip(expected, scripted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_2d_plan_treats_slices_one_by_one():
    """A patch of one slice and kernels with a 1 for z are what 2D convolutions make of it."""
    torch.manual_seed(0)
    strides, kernels, features = [(1, 1, 1), (2, 2, 1), (2, 2, 1)], [(3, 3, 1)] * 3, [4, 6, 8]
    net = build(features, strides, kernels, 1).eval()
    flat = DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=features, deep_supervision=True).eval()
    weights = net.state_dict()
    flat.load_state_dict({k: v.squeeze(-1) if v.ndim == 5 else v for k, v in weights.items()}, strict=False)
    x = torch.rand(3, 1, 16, 16, 1)
    assert torch.allclose(net(x)[..., 0], flat(x[..., 0]), atol=1e-5)


@pytest.mark.parametrize(
    "more", [{"features": [4, 4]}, {"kernels": KERNELS[:-1]}, {"decoder_kernel_size": KERNELS}], ids=str
)
def test_plans_that_do_not_fit_are_refused(more):
    with pytest.raises(ValueError, match="need"):
        build(**{"features": SMALL, **more})
