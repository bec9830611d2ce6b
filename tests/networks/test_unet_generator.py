"""The U-Net generator, and the decoder that segmenters share with it."""

import pytest
import torch

from crossmoda.networks import ResnetGenerator, UNetDecoder, UNetGenerator


@pytest.mark.parametrize("size", [(16, 16), (17, 30)])
def test_any_size_comes_back_within_the_range(size):
    image = UNetGenerator(features=4)(torch.rand(2, 1, *size))
    assert image.shape == (2, 1, *size)
    assert image.abs().max() <= 1


def test_three_levels_halve_three_times_and_double_the_features():
    network = UNetGenerator(features=4, levels=3)
    features = network.encode(torch.rand(1, 1, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert network.feature_channels == (4, 8, 16, 32)
    assert network.divisor == 8


@pytest.mark.parametrize("generator", [UNetGenerator(features=4), ResnetGenerator(features=4, n_blocks=1)])
def test_segmentation_decoder_fits_any_generator(generator):
    decoder = UNetDecoder(generator.feature_channels, out_channels=3)
    assert decoder(generator.encode(torch.rand(2, 1, 16, 24))).shape == (2, 3, 16, 24)


def test_decoder_uses_every_skip():
    decoder = UNetDecoder((4, 8, 16), out_channels=1)
    features = [torch.rand(1, c, 16 // 2**i, 16 // 2**i, requires_grad=True) for i, c in enumerate((4, 8, 16))]
    decoder(features).square().sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


def test_scripts_and_gives_the_same():
    network = UNetGenerator(features=4)
    x = torch.rand(1, 1, 18, 21)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
