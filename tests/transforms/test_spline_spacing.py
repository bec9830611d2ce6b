"""SplineSpacing against scipy's non-separable interpolation, a cubic, and its own way back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Spacing
from scipy import ndimage

from crossmoda.transforms import SplineSpacing, SplineSpacingd
from crossmoda.transforms.spline_spacing import spline_matrix


def volume(shape=(14, 12, 9), spacing=(0.8, 0.8, 1.5), seed=0) -> MetaTensor:
    R = np.random.RandomState(seed)
    smooth = ndimage.gaussian_filter(R.rand(*shape), 1.0).astype(np.float32)
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = [5, -7, 11]
    return MetaTensor(torch.from_numpy(smooth)[None], affine=torch.from_numpy(affine))


def test_grid_is_that_of_monai() -> None:
    image = volume()
    expected = Spacing((0.5, 0.5, 1.0))(image)
    result = SplineSpacing((0.5, 0.5, 1.0))(image)
    assert result.shape == expected.shape
    assert torch.allclose(result.affine, expected.affine, atol=1e-6)


def test_values_are_those_of_scipy_in_three_dimensions() -> None:
    image = volume()
    result = SplineSpacing((0.5, 0.5, 1.0))(image)
    to_index = np.linalg.inv(image.affine.numpy()) @ result.affine.numpy()
    expected = ndimage.affine_transform(
        image[0].numpy().astype(np.float64), to_index, output_shape=result.shape[1:], order=3, mode="mirror"
    )
    assert np.abs(result[0].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("order", "mode"), [(0, "nearest"), (1, "bilinear")])
def test_nearest_and_linear_are_those_of_monai(order, mode) -> None:
    image = volume((14, 13, 9))
    label = MetaTensor(torch.stack([image[0] > 0.5, image[0] > 0.45]).float(), affine=image.affine)
    expected = Spacing((0.57, 0.57, 1.1), mode=mode, dtype=torch.float64)(label)
    result = SplineSpacing((0.57, 0.57, 1.1), order)(label)
    inside = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))  # MONAI repeats the border, splines mirror
    assert torch.allclose(result.as_tensor()[inside], expected.as_tensor()[inside].float(), atol=1e-5)
    assert torch.allclose(result.affine, expected.affine, atol=1e-6)


def test_each_key_has_its_order_and_goes_back_so() -> None:
    image = volume()
    label = MetaTensor((image.as_tensor() > 0.5).float(), affine=image.affine)
    pipeline = SplineSpacingd(["image", "label"], (0.4, 0.4, 0.75), order=[3, 0])
    there = pipeline({"image": image, "label": label})
    assert set(there["label"].unique().tolist()) == {0.0, 1.0}
    back = pipeline.inverse(there)
    assert torch.equal(back["label"].as_tensor(), label.as_tensor())
    assert set(back["image"].unique().tolist()) != {0.0, 1.0}
    with pytest.raises(ValueError, match="order 2"):
        SplineSpacingd("image", (1, 1, 1), order=2)


def test_matrix_reproduces_a_line_and_sums_to_one() -> None:
    matrix = spline_matrix(20, 30, 0.6, 0.5)
    assert np.allclose(matrix.sum(1), 1)
    inner = (0.5 + 0.6 * np.arange(30) > 4) & (0.5 + 0.6 * np.arange(30) < 15)
    error = (matrix @ np.arange(20.0) - (0.5 + 0.6 * np.arange(30)))[inner]
    assert np.abs(error).max() < 2e-2  # mirroring bends the line at the ends, by a factor of 0.27 a sample inwards


def test_an_order_for_each_axis() -> None:
    """nnU-Net's way with thick slices: cubic in plane, the nearest slice across."""
    image = volume()
    resample = SplineSpacing((0.5, 0.5, 1.0), order=(3, 3, 0))
    result = resample(image)
    to_index = np.linalg.inv(image.affine.numpy()) @ result.affine.numpy()
    slices = np.floor(to_index[2, 3] + to_index[2, 2] * np.arange(result.shape[3]) + 0.5).astype(int).clip(0, 8)
    in_plane = SplineSpacing((0.5, 0.5, -1))(image)
    assert torch.allclose(result.as_tensor(), in_plane.as_tensor()[..., slices], atol=1e-6)
    both = SplineSpacingd(["image", "label"], (0.5, 0.5, 1.0), order=[(3, 3, 0), 0])({"image": image, "label": image})
    assert torch.equal(both["image"].as_tensor(), result.as_tensor())
    assert set(both["label"].unique().tolist()) <= set(image.unique().tolist())
    back = resample.inverse(result)
    assert back.shape == image.shape
    assert (back - image).abs().mean() < 0.05 * (image.max() - image.min())


def test_same_spacing_changes_nothing() -> None:
    image = volume()
    result = SplineSpacing((0.8, 0.8, 1.5))(image)
    assert torch.equal(result.as_tensor(), image.as_tensor())


@pytest.mark.parametrize("shape", [(14, 12, 9), (9, 15, 3)])
def test_inverse_returns_to_the_grid(shape) -> None:
    image = volume(shape)
    pipeline = Compose([SplineSpacingd("image", (0.5, 0.6, 1.0))])
    data = pipeline({"image": image})
    assert len(data["image"].applied_operations) == 1
    data["pred"] = MetaTensor(data["image"].as_tensor().clone(), meta=data["image"].meta)
    back = Invertd("pred", pipeline, orig_keys="image", nearest_interp=False)(data)["pred"]
    assert back.shape == image.shape
    assert torch.allclose(back.affine.double(), image.affine.double(), atol=1e-9)
    assert (back - image).abs().mean() < 0.02 * (image.max() - image.min())
