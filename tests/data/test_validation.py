import gzip

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import check_item, check_same_grid, find_faults, item_faults, read_header, read_label, read_volume
from crossmoda.errors import InputError

OBLIQUE = np.array([[-0.5, 0.02, 0.0, 10.0], [0.02, 0.5, 0.1, -5.0], [0.0, -0.03, 1.5, 3.0], [0, 0, 0, 1]])


def save(path, array, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def scan(tmp_path):
    return save(tmp_path / "scan.nii.gz", np.random.RandomState(0).randint(0, 999, (16, 14, 8)).astype(np.int16))


@pytest.fixture
def label(tmp_path):
    array = np.zeros((16, 14, 8), np.uint8)
    array[4:6], array[8:9] = 1, 2
    return save(tmp_path / "label.nii.gz", array)


def fault_of(function, *args, **kwargs):
    """The one line that the fault gives."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_item_passes_and_is_read_whole(scan, label):
    check_item({"case": "a", "image": scan, "label": label}, require_label=True)
    array, affine = read_volume(scan)
    assert array.dtype == np.int16
    assert array.shape == (16, 14, 8)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-6)
    assert np.unique(read_label(label)[0]).tolist() == [0, 1, 2]
    assert read_header(scan).spacing == pytest.approx(np.linalg.norm(OBLIQUE[:3, :3], axis=0), abs=1e-6)


def test_missing_file(tmp_path):
    assert "nothing.nii.gz is missing" in fault_of(read_header, tmp_path / "nothing.nii.gz")


def test_folder_instead_of_file(tmp_path):
    assert "is a folder" in fault_of(read_header, tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 60, -40, -4])
def test_truncated_gzip(scan, kept):
    scan.write_bytes(scan.read_bytes()[:kept])
    message = fault_of(read_volume, scan)
    assert str(scan) in message
    assert "is damaged or truncated: copy it again" in message


def test_damaged_in_the_middle(scan):
    content = bytearray(scan.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    scan.write_bytes(content)
    assert "is damaged or truncated" in fault_of(read_volume, scan)


def test_truncated_without_compression(tmp_path):
    path = save(tmp_path / "scan.nii", np.ones((8, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged or truncated" in fault_of(read_volume, path)


def test_not_nifti(tmp_path):
    (tmp_path / "scan.txt").write_text("hello")
    assert "is not a NIfTI file" in fault_of(read_header, tmp_path / "scan.txt")
    with gzip.open(tmp_path / "scan.nii.gz", "wb") as file:
        file.write(b"no image" * 100)
    assert "no NIfTI file" in fault_of(read_header, tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    ("shape", "mend"), [((8, 8), "join the slices"), ((8, 8, 1), "join the slices"), ((8, 8, 8, 3), "split the series")]
)
def test_not_three_dimensional(tmp_path, shape, mend):
    message = fault_of(read_header, save(tmp_path / "scan.nii.gz", np.ones(shape, np.float32)))
    assert f"has shape {shape}, a 3D volume is needed: {mend}" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path, value):
    array = np.ones((8, 8, 8), np.float32)
    array[0, 0, :2] = value
    assert "has 2 voxels that are NaN or infinite" in fault_of(read_volume, save(tmp_path / "scan.nii.gz", array))


def test_singular_affine(tmp_path):
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4))
    image.header["srow_x"], image.header["sform_code"], image.header["qform_code"] = 0, 1, 0
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), None, image.header)
    nib.save(image, tmp_path / "scan.nii.gz")
    assert "has no usable affine" in fault_of(read_header, tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    ("dtype", "value", "shown"), [(np.uint8, 3, "3"), (np.float32, 1.5, "1.5"), (np.int16, -1, "-1")]
)
def test_unknown_label_values(tmp_path, dtype, value, shown):
    array = np.zeros((8, 8, 8), dtype)
    array[0] = value
    path = save(tmp_path / "label.nii.gz", array)
    assert f"has label values {shown} but only 0, 1, 2 are known" in fault_of(read_label, path)


def test_label_values_of_another_release(tmp_path):
    array = np.zeros((8, 8, 8), np.float32)
    array[0] = 3
    assert read_label(save(tmp_path / "label.nii.gz", array), allowed=(0, 1, 2, 3))[0].max() == 3


def test_grids(tmp_path, scan):
    ones = np.ones((16, 14, 8), np.uint8)
    rounded = OBLIQUE + 1e-4
    rounded[3] = OBLIQUE[3]
    check_same_grid(save(tmp_path / "rounded.nii.gz", ones, rounded), scan)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 0.2  # of a 0.5 mm voxel
    message = fault_of(check_same_grid, save(tmp_path / "shifted.nii.gz", ones, shifted), scan)
    assert "shifted.nii.gz lies on another grid than" in message
    assert "same shape, other affine" in message
    message = fault_of(check_same_grid, save(tmp_path / "other.nii.gz", ones[:-1]), scan)
    assert "shape (15, 14, 8) against (16, 14, 8)" in message
    assert "resample it" in message


def test_item_without_label(scan):
    assert "has no label" in fault_of(check_item, {"case": "a", "image": scan}, require_label=True)


def test_faults_of_many_items_in_order(scan, label, tmp_path):
    good = {"image": scan, "label": label}
    items = [good, {"image": tmp_path / "x.nii.gz"}, good, {"image": scan, "label": scan}]
    faults = find_faults(items, threads=2)
    assert [bool(fault) for fault in faults] == [False, True, False, True]
    assert "label values" in faults[3][0]
    assert find_faults(items, check="header")[3] == []
    assert find_faults(items, check="none") == [[]] * 4


def test_all_faults_of_an_item(scan, tmp_path):
    other = save(tmp_path / "other.nii.gz", np.full((16, 14, 9), 7, np.uint8))
    scan.write_bytes(scan.read_bytes()[:-40])
    damaged, grid, values, missing = item_faults({"image": scan, "label": other, "parcellation": tmp_path / "x.nii.gz"})
    assert "damaged" in damaged
    assert "another grid" in grid
    assert "label values 7" in values
    assert "x.nii.gz is missing" in missing
