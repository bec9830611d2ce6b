import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.interpolate import BSpline

from crossmoda.transforms import RandControlPointElasticd
from crossmoda.transforms.elastic import bspline_field

SHAPE = (24, 20, 12)


def volume(spacing=(1.0, 1.0, 1.0)):
    index = np.stack(np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij"))
    return MetaTensor(torch.from_numpy(index.astype(np.float32)), affine=np.diag([*spacing, 1]))


def test_field_equals_scipys_bspline():
    control = np.random.RandomState(0).uniform(-1, 1, (2, 7, 5, 4))
    field = bspline_field(control, SHAPE).numpy()
    expected = control
    for axis, (size, n) in enumerate(zip(SHAPE, control.shape[1:], strict=True), start=1):
        spline = BSpline(np.arange(n + 4) - 3.0, np.moveaxis(expected, axis, 0), 3)
        # the last voxel lies on the last knot, which belongs to the interval on its left
        at = np.minimum(np.linspace(0, n - 3, size), n - 3 - 1e-9)
        expected = np.moveaxis(spline(at), 0, axis)
    np.testing.assert_allclose(field, expected, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.5)])
def test_displacement_stays_within_its_maximum_in_mm(spacing):
    transform = RandControlPointElasticd("image", max_displacement=3.0, prob=1.0).set_random_state(0)
    x = volume(spacing)
    # The image holds each voxel's own index, so the deformed image says where it was taken from.
    moved = (transform({"image": x})["image"].numpy() - x.numpy()) * np.array(spacing)[:, None, None, None]
    assert 0.3 < np.abs(moved).max() <= 3.0
    # Of the locked layers' neighbours, 1/6 of the weight on each axis reaches the corner.
    assert np.abs(moved[:, 0, 0, 0]).max() <= 3.0 / 6**3 + 1e-5


def test_image_and_label_move_together():
    x = torch.zeros(1, *SHAPE)
    x[0, 8:16, 6:14, 3:9] = 1
    transform = RandControlPointElasticd(["image", "label"], prob=1.0, mode=["bilinear", "nearest"]).set_random_state(3)
    out = transform({"image": MetaTensor(x), "label": MetaTensor(x.clone())})
    assert set(np.unique(out["label"])) == {0, 1}
    assert not torch.equal(out["label"].as_tensor(), x)
    disagree = ((out["image"] > 0.5) != (out["label"] > 0.5)).float().mean()
    assert disagree < 0.02


@pytest.mark.parametrize("arguments", [{"prob": 0.0}, {"prob": 1.0, "max_displacement": 0.0}])
def test_no_op(arguments):
    x = volume()
    assert torch.equal(RandControlPointElasticd("image", **arguments)({"image": x})["image"], x)


def test_same_seed_gives_the_same():
    outs = [
        RandControlPointElasticd("image", prob=0.7).set_random_state(5)({"image": volume()})["image"] for _ in range(2)
    ]
    assert torch.equal(*outs)


def test_too_few_control_points_are_refused():
    with pytest.raises(ValueError, match="num_control_points"):
        RandControlPointElasticd("image", num_control_points=4, locked_borders=2)
