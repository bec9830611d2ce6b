import numpy as np
import torch

from crossmoda.transforms import RandMultiDimensionalCLAHEd
from crossmoda.transforms.clahe import kernel_size


def dim_volume():
    random = np.random.RandomState(0)
    return torch.from_numpy((0.4 + 0.05 * random.rand(1, 16, 16, 8)).astype(np.float32))


def test_local_contrast_rises_and_stays_in_range():
    x = dim_volume()
    y = RandMultiDimensionalCLAHEd("image", prob=1.0)({"image": x})["image"]
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.min() >= 0
    assert y.max() <= 1
    assert y.std() > 2 * x.std()


def test_uses_all_three_dimensions():
    # A slice's result depends on its neighbours, which slice-wise CLAHE would not see.
    x = dim_volume()
    changed = x.clone()
    changed[..., 5] = 0
    change = RandMultiDimensionalCLAHEd("image", prob=1.0, kernel_fraction=0.5)
    assert not torch.equal(change({"image": x})["image"][..., 3], change({"image": changed})["image"][..., 3])


def test_no_op_and_constant_image():
    x = dim_volume()
    assert torch.equal(RandMultiDimensionalCLAHEd("image", prob=0.0)({"image": x})["image"], x)
    flat = torch.full((1, 8, 8, 4), 0.5)
    assert torch.equal(RandMultiDimensionalCLAHEd("image", prob=1.0)({"image": flat})["image"], flat)


def test_kernel_is_an_eighth_of_each_axis_and_at_least_one():
    assert kernel_size((256, 128, 48), 1 / 8) == [32, 16, 6]
    assert kernel_size((4, 4, 3), 1 / 8) == [1, 1, 1]
