"""DICOM series that ITK writes slice by slice, with known geometry, and what goes wrong with them."""

import importlib.util
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import convert_series, is_series, read_series
from crossmoda.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_dicom.py"
_spec = importlib.util.spec_from_file_location("convert_dicom", SCRIPT)
convert_dicom = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(convert_dicom)

CT = {"0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0060": "CT"}
INT16 = {"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "1"}


def rotation(axis, degrees):
    """Rotation about one axis, by Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def affine_of(directions=None, spacing=(0.6, 0.7, 2.5), origin=(-30.25, 11.5, 7.125)):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * np.array(spacing)
    affine[:3, 3] = origin
    return affine


AXIAL = affine_of(np.diag([-1.0, -1.0, 1.0]))  # as scanners store it: columns to the left, rows to the back
SAGITTAL = affine_of(np.array([[0, 0, -1.0], [-1, 0, 0], [0, -1, 0]]))
CORONAL = affine_of(np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
OBLIQUE = affine_of(rotation(np.array([0.3, -0.5, 0.8]), 23) @ np.diag([-1.0, -1.0, 1.0]))


@pytest.fixture
def array():
    return np.random.RandomState(0).randint(-500, 999, (9, 7, 5)).astype(np.int16)


def fault_of(function, *args):
    """The one line that the fault gives."""
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("affine", [AXIAL, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sagittal", "coronal", "oblique"])
def test_voxels_lie_where_they_were_scanned(tmp_path, array, affine, write_series):
    write_series(tmp_path, array, affine)
    read, read_affine = read_series(tmp_path)
    corners = np.array([[x, y, z, 1] for x in (0, 8) for y in (0, 6) for z in (0, 4)]).T
    # Slices against the right-handed order come reversed, so places are compared, not indices.
    flip = np.eye(4)
    if np.linalg.det(affine[:3, :3]) < 0:
        flip[2, 2:] = [-1, 4]
        array = array[:, :, ::-1]
    np.testing.assert_allclose(read_affine @ corners, affine @ flip @ corners, atol=1e-3)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.int16


def test_both_handednesses_are_in_the_test_above():
    signs = [np.sign(np.linalg.det(affine[:3, :3])) for affine in (AXIAL, SAGITTAL, CORONAL, OBLIQUE)]
    assert {-1.0, 1.0} == set(signs)


def test_converted_file_and_itk_agree(tmp_path, array, write_series):
    write_series(tmp_path / "series", array, OBLIQUE)
    convert_series(tmp_path / "series", tmp_path / "out" / "scan.nii.gz")
    saved = nib.load(tmp_path / "out" / "scan.nii.gz")
    np.testing.assert_allclose(saved.affine, OBLIQUE, atol=1e-3)
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), array)
    assert saved.get_data_dtype() == np.int16
    assert saved.header.get_xyzt_units()[0] == "mm"
    # ITK's own readers of DICOM and NIfTI as witnesses of the geometry
    names = itk.GDCMSeriesFileNames.New(Directory=str(tmp_path / "series"))
    dicom = itk.imread(list(names.GetFileNames(names.GetSeriesUIDs()[0])), itk.SS)
    nifti = itk.imread(str(tmp_path / "out" / "scan.nii.gz"), itk.SS)
    for index in ([0, 0, 0], [8, 0, 0], [0, 6, 0], [8, 6, 4]):
        first, second = dicom.TransformIndexToPhysicalPoint(index), nifti.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(np.array(first), np.array(second), atol=1e-3)
        assert dicom.GetPixel(index) == nifti.GetPixel(index)


@pytest.mark.parametrize(("slope", "dtype"), [("2", np.integer), ("0.5", np.float32)])
def test_rescaled_voxels(tmp_path, array, slope, dtype, write_series):
    array = (array // 2 * 2).astype(np.float32 if slope == "0.5" else np.int16)  # what the writer's integers can hold
    write_series(tmp_path, array, OBLIQUE, **CT, **INT16, **{"0028|1053": slope, "0028|1052": "-24"})
    read = read_series(tmp_path)[0]
    assert np.issubdtype(read.dtype, dtype)
    np.testing.assert_array_equal(read, array)


def test_other_files_are_passed_over(tmp_path, array, write_series):
    write_series(tmp_path, array, OBLIQUE)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.dcm").write_text("hello")
    (tmp_path / "DICOMDIR").write_text("hello")
    assert read_series(tmp_path)[0].shape == (9, 7, 5)


def test_is_series(tmp_path, array, write_series):
    assert not is_series(tmp_path / "nothing")
    assert not is_series(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert not is_series(tmp_path)
    paths = write_series(tmp_path / "series", array, OBLIQUE)
    assert not is_series(tmp_path)
    assert not is_series(paths[0])
    for path in paths:
        path.rename(path.with_suffix(""))
    assert is_series(tmp_path / "series")
    assert read_series(tmp_path / "series")[0].shape == (9, 7, 5)


def test_no_dicom(tmp_path, array, write_series):
    assert "is not a folder" in fault_of(read_series, tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    assert f"{tmp_path} holds no DICOM file: give the folder" in fault_of(read_series, tmp_path)
    write_series(tmp_path / "T2", array, OBLIQUE)
    assert "(its folders T2 do)" in fault_of(read_series, tmp_path)


def test_two_series(tmp_path, array, write_series):
    for path in write_series(tmp_path / "other", array[:, :, :3], OBLIQUE, uid="1.2.3.5", description="T1 sag"):
        path.parent.mkdir(exist_ok=True)
        (tmp_path / "series").mkdir(exist_ok=True)
        shutil.move(path, tmp_path / "series" / f"other{path.name}")
    write_series(tmp_path / "series", array, OBLIQUE)
    message = fault_of(read_series, tmp_path / "series")
    assert "holds 2 DICOM series: 'T2 ax' (5 files), 'T1 sag' (3 files): put each in a folder" in message


def test_single_slice(tmp_path, array, write_series):
    write_series(tmp_path, array[:, :, :1], OBLIQUE)
    assert "holds one DICOM slice only" in fault_of(read_series, tmp_path)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_missing_slice(tmp_path, array, gone, write_series):
    write_series(tmp_path, array, OBLIQUE)[gone].unlink()
    message = fault_of(read_series, tmp_path)
    assert "slices missing or unevenly spaced (5.000 mm between" in message
    assert "elsewhere 2.500 mm" in message


def test_doubled_slice(tmp_path, array, write_series):
    path = write_series(tmp_path, array, OBLIQUE)[2]
    shutil.copy(path, tmp_path / "copy.dcm")
    message = fault_of(read_series, tmp_path)
    assert "holds 1 slices at the place of another" in message
    assert path.name in message
    assert "copy.dcm" in message


def test_slice_off_its_place(tmp_path, array, write_series, write_slice):
    paths = write_series(tmp_path, array, OBLIQUE)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ OBLIQUE
    tags = {"0020|000e": "1.2.3.4", "0020|000d": "1.2.3"}
    write_slice(paths[2], array[:, :, 2], lps[:3, 3] + 2.1 * lps[:3, 2], lps, tags)  # a tenth of the gap too far
    assert "unevenly spaced" in fault_of(read_series, tmp_path)
    write_slice(paths[2], array[:, :, 2], lps[:3, 3] + 2 * lps[:3, 2] + 2 * lps[:3, 0], lps, tags)  # 2 px sideways
    assert f"{paths[2]} lies off the line" in fault_of(read_series, tmp_path)
    write_slice(paths[2], array[:, :, 2], lps[:3, 3] + 2.01 * lps[:3, 2], lps, tags)  # rounding
    assert read_series(tmp_path)[0].shape == (9, 7, 5)


def test_tilted_gantry(tmp_path, array, write_slice):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AXIAL
    for k in range(5):
        position = lps[:3, 3] + k * np.array([0, 2.5 * np.tan(np.radians(12)), 2.5])
        tags = {"0020|000e": "1.2", "0020|000d": "1.2.3"}
        write_slice(tmp_path / f"{k}.dcm", array[:, :, k], position, lps, tags)
    assert "scanned with a tilt of 12.0 degrees" in fault_of(read_series, tmp_path)


def test_slices_that_differ(tmp_path, array, write_series):
    write_series(tmp_path / "a", array, AXIAL)
    paths = write_series(tmp_path / "b", array, SAGITTAL)
    shutil.copy(paths[0], tmp_path / "a" / "zz.dcm")
    assert "holds slices in different orientations" in fault_of(read_series, tmp_path / "a")
    paths = write_series(tmp_path / "c", array[:-1], AXIAL)
    shutil.copy(paths[0], tmp_path / "a" / "zz.dcm")
    assert "holds slices of different sizes" in fault_of(read_series, tmp_path / "a")


@pytest.mark.parametrize("kept", [0, 100, 200, 600, -40, -1])
def test_truncated_file(tmp_path, array, kept, write_series):
    path = write_series(tmp_path, array, OBLIQUE)[3]
    path.write_bytes(path.read_bytes()[:kept])
    message = fault_of(read_series, tmp_path)
    assert message.startswith(f"{path} is damaged")


def test_colour(tmp_path):
    rgb = itk.Image[itk.RGBPixel[itk.UC], 2].New()
    rgb.SetRegions([5, 4])
    rgb.Allocate(True)
    itk.imwrite(rgb, str(tmp_path / "a.dcm"))
    assert f"{tmp_path / 'a.dcm'} is a colour image" in fault_of(read_series, tmp_path)


def test_several_frames_in_one_file(tmp_path, array):
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(array.T.astype(np.uint8))), str(tmp_path / "a.dcm"))
    assert "is a multi-frame file (5 frames)" in fault_of(read_series, tmp_path)


@pytest.mark.parametrize(
    ("tag", "name"),
    [(b"\x32", "ImagePositionPatient"), (b"\x37", "ImageOrientationPatient"), (b"\x30", "PixelSpacing")],
)
def test_without_a_place_in_space(tmp_path, array, tag, name, write_series):
    group = b"\x28\x00" if name == "PixelSpacing" else b"\x20\x00"
    path = write_series(tmp_path, array, OBLIQUE)[0]
    content = path.read_bytes()
    assert content.count(group + tag + b"\x00") == 1
    path.write_bytes(content.replace(group + tag + b"\x00", group + tag + b"\x01"))  # now an unknown tag
    assert f"{path} has no usable {name}" in fault_of(read_series, tmp_path)


def test_no_read_permission(tmp_path, array, monkeypatch, write_series):
    path = write_series(tmp_path, array, OBLIQUE)[1]
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert fault_of(read_series, tmp_path) == f"{path} may not be read (permission denied): change its permissions"


def test_command_converts_the_good_and_names_the_faulty(tmp_path, array, capsys, write_series):
    write_series(tmp_path / "p1", array, OBLIQUE)
    write_series(tmp_path / "p2", array, OBLIQUE)[2].unlink()
    folders = [str(tmp_path / "p2"), str(tmp_path / "p1")]
    assert convert_dicom.main([*folders, "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {tmp_path / 'p2'} has slices missing")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1.nii.gz"]
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "p1.nii.gz").affine, OBLIQUE, atol=1e-3)


def test_command_refuses_two_folders_of_one_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        convert_dicom.main([str(tmp_path / "a" / "T2"), str(tmp_path / "b" / "T2"), "--output", str(tmp_path)])
    assert caught.value.code == 2
    assert "would both become" in capsys.readouterr().err


def test_command_where_the_output_is_a_file(tmp_path, array, capsys, write_series):
    write_series(tmp_path / "p1", array, OBLIQUE)
    (tmp_path / "out").write_text("hello")
    with pytest.raises(SystemExit) as caught:
        convert_dicom.main([str(tmp_path / "p1"), "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "can't be written" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "hello"
