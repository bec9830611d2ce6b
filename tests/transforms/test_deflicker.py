"""Slices of a translation made even along the volume."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.metrics import slice_flicker
from crossmoda.transforms import SmoothSliceIntensityd

COUNT = 30


@pytest.fixture
def pair():
    """Source and translation (1, 40, 36, 30): tissues whose section changes, noise, and a slow drift of the latter."""
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in (40, 36, COUNT)], indexing="ij")
    source = torch.where(x**2 + y**2 + (z / 2) ** 2 < 0.6, 0.4, -0.3) + 0.2 * torch.sin(4 * x)
    noise = 0.03 * torch.randn(2, 1, 40, 36, COUNT, generator=generator)
    target = -0.8 * source[None] + 0.1 * z + noise[1]
    return source[None] + noise[0], target


def even(target, source, **options):
    return SmoothSliceIntensityd("pred", "image", **options)({"pred": target, "image": source})["pred"]


def test_synthetic_flicker_is_reduced(pair):
    source, target = pair
    offsets = 0.1 * torch.randn(COUNT, generator=torch.Generator().manual_seed(1))
    flickering = target + offsets
    result = even(flickering, source)
    assert slice_flicker(result, source) < 0.15 * slice_flicker(flickering, source)
    # what is left is slow
    assert (result - target).abs().mean() < 0.6 * (flickering - target).abs().mean()


def test_flicker_of_gain_is_reduced(pair):
    source, target = pair
    flickering = target * (1 + 0.2 * torch.randn(COUNT, generator=torch.Generator().manual_seed(2)))
    assert slice_flicker(even(flickering, source), source) < 0.3 * slice_flicker(flickering, source)


def test_a_volume_without_flicker_is_left_nearly_alone(pair):
    source, target = pair
    change = (even(target, source) - target).abs()
    assert change.mean() < 0.01  # of a range of 2; the noise is 0.03, the drift from end to end 0.2
    assert change.max() < 0.06


def test_half_of_an_offset_with_the_period_is_left(pair):
    source, _ = pair
    wave = 0.2 * torch.cos(2 * torch.pi * torch.arange(COUNT) / 6)
    result = even(torch.zeros_like(source) + wave, source, period=6)[0, 20, 18]
    assert torch.allclose(result[6:-6], 0.5 * wave[6:-6], atol=0.02)


def test_offsets_solve_the_plain_least_squares_problem(pair):
    source, target = (volume.numpy()[0].reshape(-1, COUNT).T[:4].astype(float) for volume in pair)
    transform = SmoothSliceIntensityd("pred", "image", period=5, stable_share=1.0)
    borders = np.linspace(source.min(), source.max(), 9)
    rows, right = [], []

    def add(weight, entries, value):
        row = np.zeros((4, 8))
        for place, sign in entries.items():
            row[place] = sign
        rows.append(np.sqrt(weight) * row.ravel())
        right.append(np.sqrt(weight) * value)

    for z in range(4):
        for k in range(8):
            add(4 * np.sin(np.pi / 5) ** 2, {(z, k): 1}, 0)
            if k < 7:
                add(0.2, {(z, k): 1, (z, k + 1): -1}, 0)
            mean = (source[z] + source[min(z + 1, 3)]) / 2
            own = (mean >= borders[k]) & ((mean < borders[k + 1]) | (k == 7))
            if z < 3 and own.sum() >= 50:
                add(1, {(z + 1, k): 1, (z, k): -1}, -np.median((target[z + 1] - target[z])[own]))
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0].reshape(4, 8)
    assert np.allclose(transform.offsets(target, source, borders), expected, atol=1e-9)


def test_keeps_type_shape_and_metadata(pair):
    source, target = pair
    target = MetaTensor(target, affine=np.diag([0.8, 0.8, 1.5, 1]), meta={"filename_or_obj": "a.nii.gz"})
    result = even(target, MetaTensor(source))
    assert isinstance(result, MetaTensor)
    assert result.dtype == torch.float32
    assert result.shape == target.shape
    assert torch.equal(result.affine, target.affine)
    assert result.meta["filename_or_obj"] == "a.nii.gz"


def test_one_slice_stays(pair):
    source, target = pair
    assert torch.allclose(even(target[..., :1], source[..., :1]), target[..., :1])


def test_faults_are_refused(pair):
    source, target = pair
    with pytest.raises(ValueError, match="its source"):
        even(target[..., :5], source)
    with pytest.raises(ValueError, match="period"):
        SmoothSliceIntensityd("pred", "image", period=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="checks a copy from GPU memory; there is no CUDA device")
def test_volumes_on_a_gpu_stay_there(pair):
    source, target = pair
    result = even(target.cuda(), source.cuda())
    assert result.is_cuda
    assert torch.allclose(result.cpu(), even(target, source))
