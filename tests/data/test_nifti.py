"""What a NIfTI file may hold: header bytes changed one by one and at random, and every fault in one clear line."""

import gzip
import os
import resource
import struct
import warnings

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from crossmoda.data import item_faults, read_header, read_label, read_volume
from crossmoda.errors import InputError

SHAPE = (12, 10, 8)
FIELDS = {"dim": 40, "pixdim": 76, "vox_offset": 108, "scl_slope": 112, "sform_code": 254, "srow_x": 280}  # bytes


def save(path, array=None, affine=None, **header):
    array = np.random.RandomState(0).randint(0, 999, SHAPE).astype(np.int16) if array is None else array
    nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 1.5, 1]) if affine is None else affine), path)
    return path


def patch(path, field, layout, *values):
    """Write values over a header field of a file, packed or not."""
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    struct.pack_into("<" + layout, content, FIELDS.get(field, field), *values)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else content)
    return path


def fault_of(function, *args, **kwargs):
    """The one line that the fault gives."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)
    return str(caught.value)


@pytest.fixture
def scan(tmp_path):
    return save(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_untouched_file_is_good(tmp_path, name):
    array, affine = read_volume(save(tmp_path / name))
    np.testing.assert_array_equal(array, np.random.RandomState(0).randint(0, 999, SHAPE))
    np.testing.assert_allclose(affine, np.diag([0.8, 0.8, 1.5, 1]), atol=1e-6)
    assert array.dtype == np.int16


def test_nifti2_and_big_endian_are_good(tmp_path):
    array = np.arange(960, dtype=np.float32).reshape(SHAPE)
    nib.save(nib.Nifti2Image(array, np.eye(4)), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "two.nii.gz")[0], array)
    swapped = nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "big.nii.gz")[0], array)


def test_scaled_voxels(scan):
    patch(scan, "scl_slope", "2f", 0.5, -10)
    expected = np.random.RandomState(0).randint(0, 999, SHAPE) * 0.5 - 10
    np.testing.assert_allclose(read_volume(scan)[0], expected)


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii"])
def test_text_renamed(tmp_path, name):
    (tmp_path / name).write_text("patient,site\n" * 100)
    assert "or it is no NIfTI file: convert it to .nii.gz" in fault_of(read_header, tmp_path / name)


def test_plain_file_named_gz(tmp_path):
    save(tmp_path / "scan.nii").rename(tmp_path / "scan.nii.gz")
    message = fault_of(read_header, tmp_path / "scan.nii.gz")
    assert "is not compressed although its name ends in .gz: rename it to .nii" in message


def test_other_formats(tmp_path):
    nib.save(nib.Nifti1Pair(np.ones(SHAPE, np.int16), np.eye(4)), tmp_path / "scan.hdr")
    assert "is not a NIfTI file: convert it to .nii.gz" in fault_of(read_header, tmp_path / "scan.hdr")
    nib.save(nib.MGHImage(np.ones(SHAPE, np.int16), np.eye(4)), tmp_path / "scan.mgz")
    assert "is not a NIfTI file: convert it to .nii.gz" in fault_of(read_header, tmp_path / "scan.mgz")


def test_not_a_file_at_all(tmp_path):
    (tmp_path / "empty.nii.gz").touch()
    assert "is damaged or truncated: copy it again (it is empty)" in fault_of(read_header, tmp_path / "empty.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert "is not a regular file" in fault_of(read_header, tmp_path / "pipe.nii.gz")  # and does not wait for ever
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    for name in ("loop.nii.gz", "null\0.nii.gz", "x" * 300 + ".nii.gz"):
        assert "is missing: correct the path" in fault_of(read_header, tmp_path / name)


def test_no_read_permission(tmp_path, monkeypatch):
    path = save(tmp_path / "scan.nii.gz")
    opened = type(path).open

    def refuse(self, *args, **kwargs):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(path), "open", refuse)  # root may read anything
    assert fault_of(read_header, path) == f"{path} may not be read (permission denied): change its permissions"


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.99])
def test_truncated_anywhere(scan, share):
    content = scan.read_bytes()
    scan.write_bytes(content[: int(share * len(content))])
    assert "is damaged or truncated: copy it again" in fault_of(read_volume, scan)


@pytest.mark.parametrize("place", [12, 200, -500, -6, -2])
def test_flipped_byte(scan, place):
    content = bytearray(scan.read_bytes())
    content[place] ^= 0x55
    scan.write_bytes(content)
    message = fault_of(read_volume, scan)
    assert str(scan) in message
    assert "copy it again" in message


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
@pytest.mark.parametrize("spacing", [-0.8, 0.0, np.nan, np.inf])
def test_spacing_that_is_none(tmp_path, capfd, name, spacing):
    path = patch(save(tmp_path / name), "pixdim", "2f", 1.0, spacing)
    assert f"has a spacing of {spacing:.3g} x 0.8 x 1.5 mm in its header" in fault_of(read_header, path)
    assert capfd.readouterr().err == ""  # nibabel would say that it has mended the header


@pytest.mark.parametrize("edge", [0.0008, 0.03, 25.0, 1e12])
def test_absurd_spacing(tmp_path, edge):
    message = fault_of(read_header, save(tmp_path / "scan.nii.gz", affine=np.diag([edge, edge, edge, 1.0])))
    assert "0.05 to 20 mm is plausible: correct its unit or spacing" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_affine_that_is_not_finite(scan, value):
    assert "has no usable affine (NaN or infinite" in fault_of(read_header, patch(scan, "srow_x", "f", value))


def test_axes_in_one_plane(scan):
    patch(scan, "srow_x", "12f", 0.8, 0.8, 0, 0, 0, 0, 0.8, 0, 0, 0, 0.8, 0)
    assert "its axes lie in one plane" in fault_of(read_header, scan)


def test_origin_far_away(tmp_path):
    affine = np.diag([0.8, 0.8, 1.5, 1.0])
    affine[1, 3] = -9_999
    assert read_header(save(tmp_path / "scan.nii.gz", affine=affine)).shape == SHAPE
    affine[1, 3] = -1e9
    message = fault_of(read_header, save(tmp_path / "scan.nii.gz", affine=affine))
    assert "has its origin at 0, -1e+09, 0 mm, far from any scanner" in message


@pytest.mark.parametrize(("edge", "good"), [(0.8001, True), (0.9, False)])
def test_header_that_contradicts_itself(tmp_path, edge, good):
    """MONAI takes the qform, here one without the scan's place and turn, as soon as pixdim and sform differ."""
    affine = np.array([[0, -0.8, 0, 50], [0.8, 0, 0, -30], [0, 0, 1.5, 9], [0, 0, 0, 1]])
    path = save(tmp_path / "scan.nii.gz", affine=affine)
    np.testing.assert_allclose(LoadImage(image_only=True)(path).affine, affine, atol=1e-6)
    patch(path, "pixdim", "2f", 1, edge)
    if good:  # the qform says nearly the same
        np.testing.assert_allclose(read_header(path).affine, affine, atol=1e-6)
    else:
        assert np.abs(LoadImage(image_only=True)(path).affine.numpy() - affine).max() > 0.05
        assert "has a header that contradicts itself" in fault_of(read_header, path)
    patch(path, 256, "6f", 0, 0, 0, 0, 0, 0)  # a qform that says nothing
    patch(path, "pixdim", "2f", 1, 0.8001)
    assert np.abs(LoadImage(image_only=True)(path).affine.numpy() - affine).max() > 20
    assert "has a header that contradicts itself" in fault_of(read_header, path)


def test_quaternion_of_no_rotation(scan):
    patch(scan, 256, "3f", 1e20, 0, 0)
    assert "has a damaged header (w2 should be positive" in fault_of(read_header, scan)


@pytest.mark.parametrize(("degrees", "good"), [(0.5, True), (1.5, False), (20.0, False)])
def test_shear(tmp_path, degrees, good):
    affine = np.diag([0.8, 0.8, 1.5, 1.0])
    affine[:3, 2] = [0, 1.5 * np.sin(np.radians(degrees)), 1.5 * np.cos(np.radians(degrees))]
    path = save(tmp_path / "scan.nii.gz", affine=affine)
    if good:
        assert read_header(path).shape == SHAPE
    else:
        assert f"has axes sheared by {degrees:.1f} degrees: resample it" in fault_of(read_header, path)


@pytest.mark.parametrize(
    ("dtype", "mend"),
    [
        ([("R", "u1"), ("G", "u1"), ("B", "u1")], "is a colour image (RGB): give the scan itself"),
        (np.complex64, "has complex voxels: give the magnitude image"),
    ],
)
def test_voxels_that_are_no_plain_numbers(tmp_path, dtype, mend):
    assert mend in fault_of(read_header, save(tmp_path / "scan.nii.gz", np.zeros(SHAPE, dtype)))


def test_empty_axis(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.zeros((12, 0, 8), np.int16))
    assert "has shape (12, 0, 8), a 3D volume is needed: it is empty" in fault_of(read_header, path)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (900, 900, 900), (12, 10, 9), (32767, 32767, 1), (-5, 10, 8)])
def test_header_that_claims_another_size(tmp_path, name, shape):
    path = patch(save(tmp_path / name), "dim", "4h", 3, *shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = fault_of(read_volume, path)
    assert "damaged" in message or "a 3D volume is needed" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; nothing was allocated


def test_header_that_claims_fewer_slices(scan):
    patch(scan, "dim", "4h", 3, 12, 10, 4)
    assert "does not hold as many voxels as its header says" in fault_of(read_volume, scan)


@pytest.mark.parametrize("offset", [-1e9, 100, 352.5, 1e30, np.nan, np.inf])
def test_header_that_claims_another_start(scan, offset):
    assert "damaged" in fault_of(read_volume, patch(scan, "vox_offset", "f", offset))


@pytest.mark.parametrize(("slope", "words"), [(np.inf, "damaged header"), (1e38, "as large as")])
def test_scaling_beyond_numbers(scan, slope, words):
    assert words in fault_of(read_volume, patch(scan, "scl_slope", "2f", slope, 0))


def test_unknown_code(scan):
    assert "has a damaged header (unknown sizes or codes)" in fault_of(read_header, patch(scan, "sform_code", "h", 77))


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_fuzzed_headers(tmp_path, name, capfd):
    """Random bytes in the header: a sound volume or one line, quickly, without a traceback or words of nibabel's."""
    content = gzip.decompress(save(tmp_path / "good.nii.gz").read_bytes())
    path, good, random = tmp_path / name, 0, np.random.RandomState(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        fuzzed = bytearray(content)
        for place in random.randint(0, 352, random.randint(1, 9)):
            fuzzed[place] = random.randint(256)
        path.write_bytes(gzip.compress(fuzzed, 1) if name.endswith(".gz") else fuzzed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lines = item_faults({"image": path})
        good += not lines
        assert all(str(path) in line and "\n" not in line and len(line) < 400 for line in lines), lines
        if not lines:
            array, affine = read_volume(path)
            assert np.isfinite(array).all()
            assert np.isfinite(affine).all()
            assert 0 < array.size <= 2 * 960
    assert 50 < good < 250  # some bytes don't matter, such as those of the description
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert capfd.readouterr().err == ""


def test_constant_image(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.full(SHAPE, 7, np.int16))
    (line,) = item_faults({"image": path})
    assert line == f"{path} has no signal (all voxels are 7): export it again, or leave it out"
    assert item_faults({"image": path}, check="header") == []


def test_empty_label(tmp_path, scan):
    path = save(tmp_path / "label.nii.gz", np.zeros(SHAPE, np.uint8))
    (line,) = item_faults({"image": scan, "label": path}, require_label=True)
    assert line == f"{path} is an empty label (background alone): draw the structures, or leave the case out"
    assert item_faults({"image": scan, "label": path}) == []
    assert read_label(path)[0].max() == 0
