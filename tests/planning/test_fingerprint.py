import nibabel as nib
import numpy as np
import pytest

from crossmoda.errors import InputError
from crossmoda.planning import Fingerprint, extract_fingerprint


def save(path, voxels, affine):
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)
    return {"case": path.name, "image": str(path)}


@pytest.fixture
def boxed():
    """30 x 20 x 10 voxels, 0 outside 12 x 11 x 6 of them; a hole inside."""
    voxels = np.zeros((30, 20, 10))
    voxels[4:16, 6:17, 2:8] = 7
    voxels[8:10, 8:10, 4:6] = 0
    return voxels


def test_box_spacing_and_share(tmp_path, boxed):
    items = [
        save(tmp_path / "a.nii.gz", boxed, np.diag([0.5, 0.6, 2.0, 1])),
        save(tmp_path / "b.nii.gz", boxed + 1, np.diag([-0.5, -0.6, 1.5, 1])),
        save(tmp_path / "c.nii.gz", boxed, np.diag([0.5, 0.6, 2.0, 1])),
    ]
    fingerprint = extract_fingerprint(items, threads=2, progress=False)

    np.testing.assert_array_equal(fingerprint.shapes, [[12, 11, 6], [30, 20, 10], [12, 11, 6]])
    np.testing.assert_allclose(fingerprint.spacings, [[0.5, 0.6, 2], [0.5, 0.6, 1.5], [0.5, 0.6, 2]])
    assert fingerprint.relative_size == pytest.approx(12 * 11 * 6 / 6000)


def test_axes_are_those_of_ras(tmp_path, boxed):
    sagittal = np.zeros((4, 4))
    sagittal[1, 0], sagittal[2, 1], sagittal[0, 2], sagittal[3, 3] = 0.5, -0.6, 2.0, 1  # axes A, I, R
    fingerprint = extract_fingerprint([save(tmp_path / "s.nii.gz", boxed, sagittal)], progress=False)

    np.testing.assert_array_equal(fingerprint.shapes, [[6, 12, 11]])
    np.testing.assert_allclose(fingerprint.spacings, [[2.0, 0.5, 0.6]])


def test_oblique_spacing_is_not_above_its_value(tmp_path, boxed):
    angle = 0.1
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 0.5, 1.5])
    fingerprint = extract_fingerprint([save(tmp_path / "o.nii.gz", boxed, affine)], progress=False)

    assert fingerprint.spacings.tolist() == [[0.5, 0.5, 1.5]]


def test_faults_are_told(tmp_path, boxed):
    with pytest.raises(InputError, match="no scan"):
        extract_fingerprint([])
    empty = save(tmp_path / "empty.nii.gz", boxed * 0, np.eye(4))
    with pytest.raises(InputError, match=r"empty\.nii\.gz is 0 everywhere"):
        extract_fingerprint([empty], progress=False)
    for spacings, shapes, share in [((1, 1), (2, 2), 1), ([[1, 1, 0]], [[2, 2, 2]], 1), ([[1, 1, 1]], [[2, 2, 2]], 0)]:
        with pytest.raises(ValueError, match=r"must"):
            Fingerprint(np.array(spacings), np.array(shapes), share)
