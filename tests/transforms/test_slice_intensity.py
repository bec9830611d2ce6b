import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentiles

from crossmoda.errors import InputError
from crossmoda.transforms import ScaleSliceIntensityd

AFFINE = np.diag([-0.4, -0.4, 1.5, 1.0])


def image():
    """Slice 0 has 101 steps, slice 1 is all but even, slice 2 is noise, scaled by 10, slice 3 holds a few spots."""
    random = np.random.RandomState(0)
    x = np.zeros((1, 101, 20, 4), dtype=np.int16)
    x[0, :, :, 0] = 5 * np.arange(101)[:, None]
    x[0, :, :, 1] = random.randint(0, 11, size=(101, 20))
    x[0, :, :, 2] = random.randint(0, 1000, size=(101, 20))
    x[0, :3, :3, 3] = 900
    return MetaTensor(x, affine=AFFINE, meta={"filename_or_obj": "case_hrT2.nii.gz"})


def test_values_by_hand():
    y = ScaleSliceIntensityd("image")({"image": image()})["image"]
    # The 5th and 95th percentile of 0, 5, ... 500 are 25 and 475: v -> (v - 250) / 225, within [-1, 1].
    expected = np.clip((5 * np.arange(101) - 250) / 225, -1, 1)
    assert np.allclose(y[0, :, 7, 0], expected, atol=1e-6)
    assert (y[0, :, :, 1] == -1).all()  # a range of 10 is no image
    assert (y[0, :, :, 3] == -1).all()  # both percentiles are 0


def test_agrees_with_monai_slice_by_slice():
    y = ScaleSliceIntensityd("image", lower=10, upper=80, b_min=0, b_max=2)({"image": image()})["image"]
    monai = ScaleIntensityRangePercentiles(10, 80, 0, 2, clip=True)
    for z in (0, 2):
        expected = monai(image().as_tensor()[..., z].float())
        assert torch.allclose(y[..., z].as_tensor(), expected, atol=1e-5)


def test_keeps_metadata_and_gives_float32():
    x = image()
    x.applied_operations = [{"class": "Spacing"}]
    y = ScaleSliceIntensityd("image")({"image": x})["image"]
    assert y.dtype == torch.float32
    assert torch.equal(y.affine, x.affine)
    assert y.meta["filename_or_obj"] == "case_hrT2.nii.gz"
    assert y.applied_operations == x.applied_operations
    assert x.dtype == torch.int16  # the input is left alone


def test_channels_are_scaled_on_their_own():
    x = torch.cat([image().as_tensor(), 3 * image().as_tensor()])
    y = ScaleSliceIntensityd("image")({"image": x})["image"]
    assert torch.allclose(y[0, ..., 2], y[1, ..., 2], atol=1e-6)


def test_min_range_is_the_largest_that_is_left_out():
    x = torch.zeros(1, 10, 10, 2)
    x[0, :5, :, 0], x[0, :5, :, 1] = 10, 10.5
    y = ScaleSliceIntensityd("image")({"image": x})["image"]
    assert (y[..., 0] == -1).all()
    assert y[..., 1].unique().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("fill", "message"),
    [(lambda x: x * 0 + 4, "every voxel is 4"), (lambda x: x * 0.001, "no slice's values"), (np.log, "not finite")],
)
def test_images_without_contrast_are_refused(fill, message):
    with np.errstate(divide="ignore"):
        x = MetaTensor(fill(image().numpy().astype(np.float32)), meta={"filename_or_obj": "case_hrT2.nii.gz"})
    with pytest.raises(InputError, match=f"case_hrT2.nii.gz: .*{message}"):
        ScaleSliceIntensityd("image")({"image": x})


def test_missing_keys():
    assert ScaleSliceIntensityd("image", allow_missing_keys=True)({"a": 1}) == {"a": 1}
    with pytest.raises(KeyError):
        ScaleSliceIntensityd("image")({"a": 1})
