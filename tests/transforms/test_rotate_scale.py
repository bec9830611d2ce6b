"""RandRotateScaled against scipy's rotation and zoom, its probabilities and ranges; nnU-Net's margin rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.transforms import RandRotateScaled, rotation_margin

SIZE = (24, 20, 8)


def smooth(shape=(36, 36, 8), sigma=2, seed=0):
    values = ndimage.gaussian_filter(np.random.RandomState(seed).rand(*shape), sigma)
    return torch.from_numpy(((values - values.min()) / np.ptp(values)).astype(np.float32))[None]


def transform(seed=0, **more):
    settings = {"rotation_prob": 0.0, "scale_prob": 0.0, **more}
    return RandRotateScaled(["image", "label"], SIZE, mode=["bilinear", "nearest"], **settings).set_random_state(seed)


def run(augment, image):
    return augment({"image": image, "label": (image > 0.5).to(torch.uint8)})


def test_nothing_to_do_is_the_centre():
    image = smooth()
    centre = image[:, 6:30, 8:28]
    out = run(transform(), image)
    assert torch.equal(out["image"], centre)
    assert torch.equal(out["label"], (centre > 0.5).to(torch.uint8))
    idle = transform(rotation_prob=1.0, scale_prob=1.0, rotation=(0, 0, 0), scale=(1, 1))
    assert torch.allclose(run(idle, image)["image"], centre, atol=1e-6)


def sampled(image, matrix):
    """scipy's way: out(centre + x) = image(centre + matrix x)."""
    centre_in = (np.array(image.shape[1:]) - 1) / 2
    offset = centre_in - matrix @ ((np.array(SIZE) - 1) / 2)
    return ndimage.affine_transform(image[0].numpy(), matrix, offset, output_shape=SIZE, order=1, mode="grid-constant")


def test_rotation_in_plane_is_scipys():
    augment, image = transform(rotation_prob=1.0, rotation=(0, 0, np.pi)), smooth()
    out = run(augment, image)
    angle = augment.angles[2]
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    assert abs(angle) > 0.1
    assert np.abs(out["image"][0].numpy() - sampled(image, matrix)).max() < 1e-4
    assert augment.angles[:2] == [0, 0]


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 2)])
def test_scale_is_one_number_for_its_axes(axes):
    augment, image = transform(scale_prob=1.0, scale_axes=axes), smooth()
    out = run(augment, image)
    scale = augment.scales[0]
    assert augment.scales == [scale if axis in axes else 1.0 for axis in range(3)]
    assert abs(scale - 1) > 0.01
    assert np.abs(out["image"][0].numpy() - sampled(image, np.diag(augment.scales))).max() < 1e-4


def test_label_follows_the_image():
    augment, image = transform(rotation_prob=1.0, scale_prob=1.0), smooth((64, 64, 64), sigma=4)
    for _ in range(5):
        out = run(augment, image)
        assert out["image"].shape == out["label"].shape == (1, *SIZE)
        assert set(out["label"].unique().tolist()) <= {0, 1}
        far = (out["image"] - 0.5).abs() > 0.15  # a voxel away, smooth values differ less
        assert torch.equal(out["label"][far] > 0, out["image"][far] > 0.5)


@pytest.mark.parametrize("background", [True, False])
def test_masks_of_labels_are_interpolated_linearly(background):
    """Each mask as scipy moves it; beyond the item is 0, which need not be among its labels."""
    R = np.random.RandomState(0)
    blobs = [ndimage.gaussian_filter(R.rand(36, 36, 8), 3) for _ in range(3)]
    labels = torch.from_numpy(np.array([0 if background else 7, 2, 255], np.uint8)[np.argmax(blobs, 0)])[None]
    augment = RandRotateScaled("label", SIZE, (0, 0, np.pi), 1.0, scale=(0.7, 1.9), scale_prob=1.0, mode="labels")
    out = augment.set_random_state(3)({"label": labels})["label"]
    cos, sin = np.cos(augment.angles[2]), np.sin(augment.angles[2])
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(augment.scales)
    values = sorted({0, *labels.unique().tolist()})
    masks = [sampled((labels == value).float(), matrix) for value in values]
    masks[0] += 1 - np.sum(masks, axis=0)
    expected = np.array(values)[np.argmax(masks, axis=0)]
    assert out.dtype == torch.uint8
    assert set(out.unique().tolist()) == set(values)
    assert (out[0].numpy() == expected).mean() > 0.999  # ties


def test_ranges_and_probabilities():
    augment = transform(rotation_prob=0.2, scale_prob=0.3, rotation=(0.1, 0.2, 0.3))
    turned, scaled = [], []
    for _ in range(3000):
        augment.randomize()
        turned.append(augment.angles)
        scaled.append(augment.scales[0])
    turned, scaled = np.array(turned), np.array(scaled)
    assert (np.abs(turned).max(0) <= [0.1, 0.2, 0.3]).all()
    assert (np.abs(turned).max(0) > [0.095, 0.19, 0.285]).all()
    drawn = scaled[scaled != 1]
    assert abs(np.mean(turned[:, 0] != 0) - 0.2) < 0.03
    assert abs(len(drawn) / 3000 - 0.3) < 0.03
    assert 0.7 <= drawn.min() < 0.71
    assert 1.39 < drawn.max() <= 1.4
    assert abs(np.mean(drawn < 1) - 0.5) < 0.06


def test_refuses_a_range_without_one():
    with pytest.raises(ValueError, match="must include 1"):
        RandRotateScaled("image", SIZE, scale=(1.1, 1.4))


@pytest.mark.parametrize(
    ("size", "rotation", "axes", "expected"),
    [
        # in plane by 90 degrees: 256 / 0.7 = 365 voxels, 365 - 192 = 173 and 365 - 256 = 109 more
        ((192, 256, 40), (0, 0, np.pi), (0, 1), [87, 55, 0]),
        # the cube's largest extent when turned by 30 degrees about one axis: 64 (cos + sin) = 87.4; / 0.7 = 124
        ((64, 64, 64), (np.pi / 6,) * 3, (0, 1, 2), [30, 30, 30]),
        ((64, 64, 64), (0, 0, 0), (0, 1, 2), [14, 14, 14]),  # 64 / 0.7 = 91
    ],
)
def test_margin_is_the_turned_patchs_extent(size, rotation, axes, expected):
    assert rotation_margin(size, rotation, 0.7, axes) == expected


def test_margin_fills_the_corners_in_plane_at_right_angles():
    margin = rotation_margin(SIZE, (0, 0, np.pi), 0.7, (0, 1))
    image = torch.ones(1, *[n + 2 * m for n, m in zip(SIZE, margin, strict=True)])
    augment = transform(scale_prob=1.0, scale_axes=(0, 1), rotation_prob=1.0, rotation=(0, 0, 0))
    assert all(run(augment, image)["image"].min() > 0.99 for _ in range(10))
