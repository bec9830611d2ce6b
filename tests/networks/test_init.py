"""Initialisation schemes: standard deviations from their formulas."""

import math

import pytest
import torch
from torch import nn

from crossmoda.networks import initialise


@pytest.mark.parametrize(
    ("scheme", "std"),
    [
        ("normal", 0.02),
        ("xavier", 0.02 * math.sqrt(2 / (9 * 64 + 9 * 32))),  # gain * sqrt(2 / (fan in + fan out))
        ("kaiming", math.sqrt(2 / (9 * 64))),  # sqrt(2 / fan in)
    ],
)
def test_weights_have_the_scheme_s_spread_and_biases_are_0(scheme, std):
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 32, 3)
    initialise(layer, scheme)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=std / 20)
    assert not layer.bias.any()


@pytest.mark.parametrize("scheme", ["normal", "xavier", "kaiming"])
def test_linear_and_transposed_layers_are_drawn_too(scheme):
    layers = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose2d(4, 4, 3))
    before = [p.clone() for p in layers.parameters()]
    initialise(layers, scheme)
    assert not any(torch.equal(a, b) for a, b in zip(before, layers.parameters(), strict=True))


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="normal, xavier, kaiming, but is 'he'"):
        initialise(nn.Linear(1, 1), "he")
