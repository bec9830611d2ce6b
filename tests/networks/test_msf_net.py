"""MSF-Net's networks: the parameter counts of Han 2022, their layers against plain torch, the discriminator's crop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.networks import MSFDecoder, MSFDiscriminator, MSFEncoder, MSFGenerator, MSFProxyDecoder


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_parameter_counts_are_the_papers():
    generator, source_decoder = MSFGenerator(), MSFDecoder()
    proxies = MSFProxyDecoder(3), MSFProxyDecoder(209)
    assert millions(generator.encoder) == pytest.approx(7.46, rel=0.01)
    assert millions(source_decoder) == pytest.approx(7.75, rel=0.01)
    assert [millions(proxy) for proxy in proxies] == pytest.approx([7.45, 7.46], rel=0.01)
    assert sum(map(millions, (generator, source_decoder, *proxies))) == pytest.approx(37.9, rel=0.01)


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]


def residual(x, first, second):
    h = F.conv2d(F.pad(x, [1] * 4, "reflect"), first.weight, first.bias)
    h = F.conv2d(F.pad(F.relu(F.instance_norm(h)), [1] * 4, "reflect"), second.weight, second.bias)
    return x + F.instance_norm(h)


def norm_act(x):
    return F.leaky_relu(F.instance_norm(x), 0.2)


def test_encoder_and_decoders_equal_plain_torch():
    torch.manual_seed(0)
    encoder, decoder = MSFEncoder(3, 4, 2), MSFDecoder(3, 4, 2)
    proxy = MSFProxyDecoder(5, 4, 2)
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    c = convolutions(encoder)
    h = norm_act(F.conv2d(F.pad(x, [3] * 4, "reflect"), c[0].weight, c[0].bias))
    for conv in c[1:3]:
        h = norm_act(F.conv2d(h, conv.weight, conv.bias, 2, 1))
    features = residual(residual(h, *c[3:5]), *c[5:7])
    torch.testing.assert_close(encoder(x), features)

    c = convolutions(decoder)
    h = residual(residual(features, *c[:2]), *c[2:4])
    for conv in c[4:6]:
        h = norm_act(F.conv_transpose2d(h, conv.weight, conv.bias, 2, 1))
    image = torch.tanh(F.conv2d(F.pad(h, [3] * 4, "reflect"), c[6].weight, c[6].bias))
    torch.testing.assert_close(decoder(features), image)

    c = convolutions(proxy)
    h = residual(residual(features, *c[:2]), *c[2:4])
    for conv in c[4:6]:
        h = h.repeat_interleave(2, -1).repeat_interleave(2, -2)
        h = norm_act(F.conv2d(h, conv.weight, conv.bias, 1, 1))
    torch.testing.assert_close(proxy(features), F.conv2d(h, c[6].weight, c[6].bias))


def test_weights_are_kaimings_and_biases_0():
    torch.manual_seed(0)
    encoder = MSFEncoder(3, 64, 1)
    for conv in convolutions(encoder):
        assert not conv.bias.any()
        fan_in = conv.weight[0].numel()
        assert float(conv.weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_encoder_does_not_see_gain_and_offset():
    """As the code needs it, which trains with [-1, 1] and translates [0, 1]."""
    encoder = MSFEncoder(3, 4, 1)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(encoder(x), encoder(x / 2 + 0.5), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("size", [(30, 34), (32, 32), (17, 40)])
def test_generator_keeps_any_size_and_scripts(size):
    network = MSFGenerator(3, 4, 1)
    x = torch.rand(1, 3, *size)
    image = network(x)
    assert image.shape == x.shape
    assert image.abs().max() <= 1
    torch.testing.assert_close(torch.jit.script(network)(x), image)


def plain_discriminator(network):
    """Han's code: 64, 128, 256, 512, ... with stride 2, one more with stride 1, one logit a place."""
    weights = convolutions(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    def judge(x):
        x = F.leaky_relu(F.conv2d(x, weights[0].weight, weights[0].bias, 2, 1), 0.2)
        for i, (conv, norm) in enumerate(zip(weights[1:-1], norms, strict=True)):
            x = F.conv2d(x, conv.weight, None, 1 if i == len(norms) - 1 else 2, 1)
            x = F.leaky_relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True), 0.2)
        return F.conv2d(x, weights[-1].weight, weights[-1].bias, 1, 1)

    return judge


def test_discriminator_equals_plain_torch():
    torch.manual_seed(0)
    network = MSFDiscriminator(3, 4, layers=3, crop_size=32)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(x), plain_discriminator(network)(x))
    assert network(x).shape == (2, 1, 2, 2)


def test_discriminator_of_the_paper_has_capped_channels_and_one_logit():
    network = MSFDiscriminator()
    assert [conv.out_channels for conv in convolutions(network)] == [64, 128, 256, 512, 512, 512, 512, 1]
    assert network(torch.rand(1, 3, 256, 256)).shape == (1, 1, 1, 1)


def test_discriminator_looks_at_a_random_crop_as_large_as_it_says():
    network = MSFDiscriminator(1, 4, layers=2, crop_size=16)
    x = torch.rand(1, 1, 32, 14, requires_grad=True)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        network(x).sum().backward()
        rows, columns = (x.grad[0, 0].abs().sum(axis).nonzero().flatten() for axis in (1, 0))
        assert int(rows[-1] - rows[0]) + 1 <= 16
        assert int(columns[-1] - columns[0]) + 1 <= 14  # taken whole
        seen.add(int(rows[0]))
        x.grad = None
    assert len(seen) > 5
    assert max(seen) <= 17


def test_slices_too_small_for_the_discriminator_are_named():
    with pytest.raises(ValueError, match=r"crop_size of 40 pixels .* needs 48: lower discriminator_layers"):
        MSFDiscriminator(layers=4, crop_size=40)
    with pytest.raises(ValueError, match="slices of 20 pixels"):
        MSFDiscriminator(1, 4, layers=3, crop_size=32)(torch.rand(1, 1, 64, 20))
