"""Class probabilities on disk."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.special import softmax
from segmentation_bundle import oblique_affine

from crossmoda.data import SaveProbabilitiesd, read_header, read_probabilities, save_nifti, save_probabilities
from crossmoda.errors import InputError

AFFINE = oblique_affine(spacing=(0.6, 0.6, 1.5))


def some_probabilities(classes=3, shape=(5, 6, 4)):
    return softmax(3 * np.random.RandomState(0).randn(classes, *shape), axis=0).astype(np.float32)


@pytest.fixture
def raw(tmp_path):
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(5, 6, 4), AFFINE)
    image.header.set_slope_inter(2.5, 0)
    nib.save(image, tmp_path / "case_hrT2.nii.gz")
    return tmp_path / "case_hrT2.nii.gz"


def test_file_is_bytes_with_a_slope_that_any_reader_understands(tmp_path):
    probabilities = some_probabilities()
    save_probabilities(probabilities, AFFINE, tmp_path / "a_prob.nii.gz")
    image = nib.load(tmp_path / "a_prob.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.shape == (5, 6, 4, 3)
    assert image.dataobj.slope == pytest.approx(1 / 255)
    assert image.dataobj.inter == 0
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    stored = np.moveaxis(np.asarray(image.dataobj), -1, 0)
    assert np.abs(stored - probabilities).max() <= 0.5 / 255 + 1e-6


def test_read_back_they_sum_to_one_and_nothing_is_background(tmp_path):
    probabilities = some_probabilities()
    probabilities[:, 0, 0] = 0
    save_probabilities(probabilities, AFFINE, tmp_path / "a_prob.nii.gz")
    back, header = read_probabilities(tmp_path / "a_prob.nii.gz")
    assert back.dtype == np.float32
    assert header.shape == (5, 6, 4)
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-6)
    assert (back[:, 0, 0] == np.array([1, 0, 0])[:, None]).all()
    assert np.abs(back - probabilities)[:, 1:].max() < 0.01


def test_transform_writes_on_the_raw_grid(raw, tmp_path):
    probabilities = some_probabilities()
    tensor = MetaTensor(torch.from_numpy(probabilities), meta={"filename_or_obj": str(raw)})
    SaveProbabilitiesd("probabilities", tmp_path / "out")({"case": "c", "probabilities": tensor})
    back, header = read_probabilities(tmp_path / "out" / "c_prob.nii.gz")
    assert np.abs(back - probabilities).max() < 0.01
    np.testing.assert_array_equal(header.affine, read_header(raw).affine)
    with pytest.raises(ValueError, match="c_prob"):
        SaveProbabilitiesd("probabilities", tmp_path)({"case": "c", "probabilities": tensor[:, 1:]})


def test_other_files_are_refused_in_one_line(raw, tmp_path):
    with pytest.raises(InputError, match="missing"):
        read_probabilities(tmp_path / "no_prob.nii.gz")
    with pytest.raises(InputError, match=r"case_hrT2\.nii\.gz does not hold class probabilities.*save_probabilities"):
        read_probabilities(raw)
    save_nifti(np.zeros((4, 4, 4, 3), np.uint8), AFFINE, tmp_path / "plain.nii.gz")
    with pytest.raises(InputError, match="does not hold class probabilities"):
        read_probabilities(tmp_path / "plain.nii.gz")
    save_probabilities(some_probabilities(), AFFINE, tmp_path / "a_prob.nii.gz")
    whole = (tmp_path / "a_prob.nii.gz").read_bytes()
    (tmp_path / "a_prob.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_probabilities(tmp_path / "a_prob.nii.gz")
