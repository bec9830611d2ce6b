"""Distances between distributions in closed form, against scipy and against MONAI."""

import numpy as np
import pytest
import torch
from monai.metrics.fid import get_fid_score
from scipy.stats import mannwhitneyu, wasserstein_distance

from crossmoda.metrics.distributions import (
    BINS,
    frechet_distance,
    histogram,
    log_power_spectrum,
    probability_brighter,
    total_variation,
    wasserstein,
)
from crossmoda.metrics.features import FixedFeatures

FIXED = [0.90492, 0.33559, 1.27359]  # three features of x * y on a 16 x 24 grid, as first computed


def centres(values):
    """Values moved to the middle of their bins, so that other implementations see what the histogram sees."""
    return ((((values + 1) / 2 * BINS).floor() + 0.5) / BINS * 2 - 1).numpy()


def test_wasserstein_equals_scipy():
    a, b = torch.rand(500) * 2 - 1, torch.rand(300) ** 2 * 2 - 1
    assert wasserstein(histogram(a), histogram(b)) == pytest.approx(
        wasserstein_distance(centres(a), centres(b)), rel=1e-4
    )


def test_probability_brighter_is_the_area_under_the_roc_curve():
    a, b = torch.rand(200) * 2 - 1, torch.rand(100) * 1.5 - 1
    expected = mannwhitneyu(centres(a), centres(b)).statistic / (200 * 100)
    assert probability_brighter(histogram(a), histogram(b)) == pytest.approx(expected, rel=1e-4)


def test_total_variation_is_0_for_equal_and_1_for_disjoint_values():
    a = torch.rand(1000)
    assert total_variation(histogram(a), histogram(a)) == 0
    assert total_variation(histogram(a), histogram(-a - 0.01)) == pytest.approx(1)


def test_power_spectrum_finds_a_wave_in_its_ring():
    x = torch.arange(64) / 64
    wave = torch.cos(2 * np.pi * 16 * x)[:, None].expand(64, 64)[None, None]  # a quarter of a cycle a pixel
    spectrum = log_power_spectrum(wave)
    assert spectrum.shape == (1, 32)
    assert int(spectrum[0].argmax()) == 16
    # White noise of unit variance has a mean power of 1 at every frequency.
    noise = torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert log_power_spectrum(noise)[:, 1:].mean().item() == pytest.approx(0, abs=0.05)


def test_frechet_distance_by_hand():
    # one feature: means 0 and 3, sample variances 1 and 4: 9 + 1 + 4 - 2 * 2
    one = torch.tensor([-1.0, 1.0])[:, None] / np.sqrt(2)
    other = 3 + torch.tensor([-2.0, 2.0])[:, None] / np.sqrt(2)
    assert frechet_distance(one, other) == pytest.approx(10, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_equals_monai_where_that_works():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=generator)
    one = torch.randn(60, 5, generator=generator) @ mix
    other = torch.randn(80, 5, generator=generator) + 0.5
    assert frechet_distance(one, other) == pytest.approx(float(get_fid_score(one, other)), rel=1e-6)


def test_frechet_distance_of_fewer_vectors_than_features():
    one = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-4)
    # Equal covariances leave the distance of the means alone.
    assert frechet_distance(one, one + 0.5) == pytest.approx(40 * 0.25, rel=1e-3)


def test_features_are_the_same_for_ever():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 24), indexing="ij")
    features = FixedFeatures()((x * y)[None, None])
    assert features.shape == (1, 96)
    first = np.random.RandomState(0).standard_normal(1)[0] * np.sqrt(2 / 9)
    assert FixedFeatures().kernel_0[0, 0, 0, 0].item() == pytest.approx(first, rel=1e-6)
    assert torch.equal(features, FixedFeatures()((x * y)[None, None]))
    assert features[0, [0, 20, 95]].tolist() == pytest.approx(FIXED, rel=1e-4)


def test_features_of_a_constant_slice_by_hand():
    features = FixedFeatures()(torch.full((1, 1, 16, 16), 0.5))
    sums = FixedFeatures().kernel_0.sum((1, 2, 3))
    assert torch.allclose(features[0, :16], (0.5 * sums).abs(), atol=1e-6)


def test_features_tell_blur_and_gain_from_nothing():
    generator = torch.Generator().manual_seed(1)
    slices = torch.rand(40, 1, 32, 32, generator=generator) * 2 - 1
    again = torch.rand(40, 1, 32, 32, generator=generator) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(again, 3, 1, 1)
    net = FixedFeatures()
    nothing, blur, darker = (frechet_distance(net(slices), net(other)) for other in (again, blurred, again - 0.3))
    assert nothing < 0.1 * min(blur, darker)
