import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import case_name, input_items, site_of, write_datalist
from crossmoda.errors import InputError


def volume(path):
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.float32).reshape(6, 5, 4), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("name", "case", "site"),
    [
        ("crossmoda_106_hrT2.nii.gz", "crossmoda_106", "ldn"),
        ("crossmoda2022_etz_0_ceT1.nii.gz", "crossmoda2022_etz_0", "etz"),
        ("crossmoda2023_ukm_44_T2.nii.gz", "crossmoda2023_ukm_44", "ukm"),
        ("patient.7.nii", "patient.7", ""),
    ],
)
def test_case_and_site_from_the_name(name, case, site):
    assert case_name(f"/somewhere/{name}") == case
    assert site_of(case) == site


def test_one_file(tmp_path):
    path = volume(tmp_path / "crossmoda2021_ldn_211_hrT2.nii.gz")
    assert input_items(path) == [{"case": "crossmoda2021_ldn_211", "site": "ldn", "image": str(path)}]


def test_folder_passes_over_labels_and_results(tmp_path):
    for name in (
        "b_hrT2.nii.gz",
        "a_hrT2.nii",
        "a_Label.nii.gz",
        "b_seg.nii.gz",
        "b_prob.nii.gz",
        ".0.tmp.c_hrT2.nii.gz",
    ):
        volume(tmp_path / name)
    assert [item["case"] for item in input_items(tmp_path)] == ["a", "b"]


def test_two_scans_of_one_case(tmp_path):
    volume(tmp_path / "a_ceT1.nii.gz"), volume(tmp_path / "a_hrT2.nii.gz")
    with pytest.raises(InputError, match="both of case a"):
        input_items(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no scan"):
        input_items(tmp_path)


def test_folder_of_dicom_slices(tmp_path, write_series):
    write_series(tmp_path / "T2", np.zeros((4, 4, 2), np.int16), np.eye(4))
    for folder in (tmp_path, tmp_path / "T2"):
        with pytest.raises(InputError, match=r"holds DICOM slices: convert them .* with scripts/convert_dicom\.py"):
            input_items(folder)


def test_faults_are_found(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        input_items(tmp_path / "a_hrT2.nii.gz")
    path = volume(tmp_path / "a_hrT2.nii.gz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated"):
        input_items(tmp_path)


def test_datalist_section(tmp_path):
    path = volume(tmp_path / "a_hrT2.nii.gz")
    write_datalist({"target_validation": [{"case": "a", "image": path}]}, tmp_path / "datalist.json")
    items = input_items(data_list=tmp_path / "datalist.json", section="target_validation")
    assert items == [{"case": "a", "site": "", "image": str(path)}]
    with pytest.raises(InputError, match="needs --section"):
        input_items(data_list=tmp_path / "datalist.json")


def test_two_views_of_one_case_in_a_datalist(tmp_path):
    """As `pool_views` writes for training: the second one's result would replace the first one's."""
    items = [{"case": "a", "image": volume(tmp_path / f"{view}.nii.gz")} for view in ("cut", "cyclegan")]
    write_datalist({"source_training": items}, tmp_path / "pooled.json")
    with pytest.raises(InputError, match=r"cut\.nii\.gz and .*cyclegan\.nii\.gz are both of case a: give a list"):
        input_items(data_list=tmp_path / "pooled.json", section="source_training")


def test_just_one_of_both(tmp_path):
    with pytest.raises(InputError, match="either --input"):
        input_items()
    with pytest.raises(InputError, match="either --input"):
        input_items("a", "b")
