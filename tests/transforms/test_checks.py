import numpy as np
import pytest
from monai.data import MetaTensor

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name, require_contrast


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 0, 3, 3)), "no voxels"),
        (np.full((1, 2, 2, 2), 7), "every voxel is 7"),
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1.0, np.inf]), "not finite"),
    ],
)
def test_refusals_name_the_file(values, message):
    with pytest.raises(InputError, match=f"^scan.nii.gz: .*{message}.*: "):
        require_contrast(MetaTensor(values, meta={"filename_or_obj": "scan.nii.gz"}))
    with pytest.raises(InputError, match=f"^image: .*{message}"):
        require_contrast(values)


def test_an_image_is_handed_back():
    image = np.arange(8, dtype=np.int16).reshape(1, 2, 2, 2)
    array = require_contrast(MetaTensor(image))
    assert array.dtype == np.int16
    assert np.array_equal(array, image)


def test_file_name():
    assert file_name(MetaTensor(np.zeros((1, 2)), meta={"filename_or_obj": "a.nii"})) == "a.nii"
    assert file_name(np.zeros(3)) == "image"
