import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, Spacingd

from crossmoda.data import SaveNiftid, save_nifti

GEOMETRY = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y", "srow_z")
# LPS, oblique, anisotropic
AFFINE = np.array([[-0.6, 0.05, 0.1, 40.0], [-0.05, -0.6, 0.0, 30.0], [-0.04, 0.02, 1.5, -20.0], [0, 0, 0, 1]])


@pytest.fixture
def raw(tmp_path):
    image = nib.Nifti1Image(np.random.RandomState(0).randint(0, 999, (20, 24, 9)).astype(np.int16), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE, code=1, strip_shears=True)
    image.set_sform(AFFINE, code=2)
    nib.save(image, tmp_path / "case_hrT2.nii.gz")
    return tmp_path / "case_hrT2.nii.gz"


def test_save_nifti_keeps_values_dtype_and_affine(tmp_path):
    array = np.random.RandomState(0).rand(3, 4, 5).astype(np.float32)
    save_nifti(array, AFFINE, tmp_path / "new" / "a.nii.gz")
    image = nib.load(tmp_path / "new" / "a.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    save_nifti(array > 0.5, AFFINE, tmp_path / "new" / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "new" / "a.nii.gz").dataobj), array > 0.5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nii.gz"]


def test_failed_write_leaves_the_former_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    path.write_text("former")

    def die_half_way(image, target):
        target.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_nifti(np.ones((2, 2, 2)), np.eye(4), path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.nii.gz", "former")]


def test_saved_item_lies_on_the_raw_grid(raw, tmp_path):
    preprocessing = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", (0.8, 0.8, 1.5)),
        ]
    )
    data = preprocessing({"case": "case", "image": str(raw)})
    data["pred"] = MetaTensor(torch.ones_like(data["image"].as_tensor()) * 1.7, meta=data["image"].meta)
    data["pred"].applied_operations = data["image"].applied_operations
    data = Invertd("pred", preprocessing, "image", nearest_interp=True)(data)
    SaveNiftid("pred", tmp_path / "out", "seg", "uint8")(data)
    saved, original = nib.load(tmp_path / "out" / "case_seg.nii.gz"), nib.load(raw)
    assert saved.shape == original.shape
    assert saved.get_data_dtype() == np.uint8
    assert np.asanyarray(saved.dataobj)[8:12, 8:12, 3:6].tolist() == np.full((4, 4, 3), 2).tolist()
    for field in GEOMETRY:
        np.testing.assert_array_equal(saved.header[field], original.header[field], err_msg=field)


def test_item_on_another_grid_is_refused(raw, tmp_path):
    tensor = MetaTensor(torch.zeros(1, 20, 24, 8), meta={"filename_or_obj": str(raw)})
    with pytest.raises(ValueError, match="is not that of the raw scan"):
        SaveNiftid("pred", tmp_path / "out", "seg")({"case": "case", "pred": tensor})
    assert not (tmp_path / "out").exists()
