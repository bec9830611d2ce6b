"""RandLowResolutiond against numpy's choice of voxels and scipy's linear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.transforms import RandLowResolutiond


def image(shape=(12, 10, 6), seed=0):
    return torch.from_numpy(np.random.RandomState(seed).rand(1, *shape).astype(np.float32))


def run(x, **more):
    transform = RandLowResolutiond("image", prob=1.0, **more).set_random_state(0)
    return transform({"image": x})["image"], transform


def test_half_resolution_by_hand():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)
    out, _ = run(x, zoom_range=(0.5, 0.5), axes=(0,))
    # kept are voxels 1, 3, 5, 7 (centres of pairs, rounded up), linear between the pairs' centres
    assert out.flatten().tolist() == pytest.approx([1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7])


def test_against_scipy():
    x = image()
    out, transform = run(x, zoom_range=(0.6, 0.9), axes=(0, 1))
    expected = x[0].numpy()
    for axis in (0, 1):
        full = expected.shape[axis]
        low = round(full * transform.zoom)
        kept = np.take(expected, np.floor((np.arange(low) + 0.5) * full / low).astype(int), axis)
        places = (np.arange(full) + 0.5) * low / full - 0.5
        grid = np.meshgrid(
            *[places if a == axis else np.arange(n) for a, n in enumerate(expected.shape)], indexing="ij"
        )
        expected = ndimage.map_coordinates(kept, grid, order=1, mode="nearest")
    assert np.abs(out[0].numpy() - expected).max() < 1e-5


def test_axes_left_out_keep_their_resolution():
    x = torch.arange(6.0).expand(1, 12, 10, 6).contiguous()  # changes along z only
    out, _ = run(x, zoom_range=(0.5, 0.5), axes=(0, 1))
    assert torch.allclose(out, x)


def test_range_probability_and_no_op():
    x = image()
    assert torch.equal(run(x, zoom_range=(1.0, 1.0))[0], x)
    out, _ = run(x)
    assert x.min() <= out.min()
    assert out.max() <= x.max()
    transform = RandLowResolutiond("image", prob=0.25).set_random_state(0)
    zooms = []
    for _ in range(2000):
        transform.randomize()
        zooms += [transform.zoom] if transform._do_transform else []
    assert abs(len(zooms) / 2000 - 0.25) < 0.04
    assert 0.5 <= min(zooms) < 0.51
    assert 0.99 < max(zooms) <= 1
    with pytest.raises(ValueError, match="zoom_range"):
        RandLowResolutiond("image", zoom_range=(0.5, 1.5))
