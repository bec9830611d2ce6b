"""Names, folders, tables and bytes of a phantom: those of the crossMoDA 2022 and 2023 releases."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import find_release
from crossmoda.errors import InputError
from crossmoda.phantom import make_phantom
from crossmoda.phantom.layout import case_files, plan_cases, release_label

COUNTS = {"source_training": 8, "target_training": 8, "target_validation": 8}
SOURCE = ("crossmoda2021_ldn_1", "crossmoda2021_ldn_2", "crossmoda2022_etz_0", "crossmoda2022_etz_1")
FILES_2022 = {
    "crossmoda2022_training/infos_source_training.csv",
    *(f"crossmoda2022_training/training_source/{name}_ceT1.nii.gz" for name in SOURCE),
    *(f"crossmoda2022_training/training_source/{name}_Label.nii.gz" for name in SOURCE),
    *(f"crossmoda2022_training/training_source_GIF/{name}_GIFoutput.nii.gz" for name in SOURCE),
    "crossmoda2022_training/training_target/crossmoda2021_ldn_106_hrT2.nii.gz",
    "crossmoda2022_training/training_target/crossmoda2022_etz_105_hrT2.nii.gz",
    "crossmoda2022_validation/validation/crossmoda2021_ldn_211_hrT2.nii.gz",
}


def relative_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_release_2022_has_exactly_its_files(phantom):
    files = relative_files(phantom.root)
    assert {name for name in files if not name.startswith("truth/")} == FILES_2022 | {"phantom.json"}


def test_truth_lies_in_its_own_tree(phantom):
    truth = {name for name in relative_files(phantom.root) if name.startswith("truth/")}
    names = {case.name for case in phantom.cases}
    hidden = {case.name: case.section for case in phantom.cases if case.section != "source_training"}
    folders = {"target_training": "training_target", "target_validation": "validation"}
    assert truth == (
        {f"truth/{folders[section]}/{name}_Label.nii.gz" for name, section in hidden.items()}
        | {f"truth/parts/{name}_Parts.nii.gz" for name in names}
        | {f"truth/facts/{name}.json" for name in names}
        | {"truth/infos_target.csv"}
    )
    for folder in ("crossmoda2022_training/training_target", "crossmoda2022_validation"):
        assert all(path.name.endswith("_hrT2.nii.gz") for path in (phantom.root / folder).rglob("*") if path.is_file())


def test_infos_hold_the_grades(phantom):
    with (phantom.root / "crossmoda2022_training/infos_source_training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["crossmoda_name", "center", "group", "koos"]
    source = {case.name: str(case.koos) for case in phantom.cases if case.section == "source_training"}
    assert {row["crossmoda_name"]: row["koos"] for row in rows} == source
    assert sorted(source.values()) == ["1", "2", "3", "4"]
    assert {row["center"] for row in rows} == {"ldn", "etz"}


def test_facts_tell_grades_sites_and_protocols(phantom):
    facts = [json.loads(case_files(phantom.root, "2022", case)["facts"].read_text()) for case in phantom.cases]
    protocols = {(fact["site"], fact["modality"], fact["protocol"]) for fact in facts}
    assert protocols == {
        ("ldn", "ceT1", "MPRAGE"),
        ("etz", "ceT1", "FFE"),
        ("ldn", "hrT2", "CISS"),
        ("etz", "hrT2", "TSE"),
    }
    assert {fact["koos"] for fact in facts if fact["section"] == "source_training"} == {1, 2, 3, 4}


def test_scans_and_labels(phantom):
    for case in phantom.cases:
        image = nib.load(case_files(phantom.root, "2022", case)["image"])
        label = nib.load(case_files(phantom.root, "2022", case)["label"])
        assert image.shape == (240, 240, 40)
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert np.allclose(image.affine, label.affine)
        assert np.allclose(image.header.get_zooms(), (0.82, 0.82, 1.5) if case.site == "ldn" else (0.8, 0.8, 1.5))
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert set(np.unique(label.dataobj)) == {0, 1, 2}
        parts, _ = phantom.load(case, "parts")
        assert np.array_equal(np.asarray(label.dataobj), np.array([0, 1, 1, 2])[parts])


def test_parcellation_leaves_the_tumour_out(phantom):
    for case in phantom.cases[:4]:
        parcels, _ = phantom.load(case, "parcellation")
        parts, _ = phantom.load(case, "parts")
        assert set(np.unique(parcels)) == set(range(12))
        assert not parcels[np.isin(parts, (1, 2))].any()


def test_the_package_reads_it_as_release_2022(phantom):
    release = find_release(phantom.root)
    found = {section: [item["case"] for item in items] for section, items in release.sections.items()}
    for section in COUNTS:
        assert sorted(found[section]) == sorted(case.name for case in phantom.cases if case.section == section)
    assert all("label" not in item for item in release.sections["target_training"])


def test_another_seed_gives_other_bytes(phantom, tmp_path):
    other = make_phantom(tmp_path, source=0, target=1, validation=0, seed=4, progress=False)[0]
    assert other.name in {case.name for case in phantom.cases}
    for what, path in case_files(tmp_path, "2022", other).items():
        assert path.read_bytes() != case_files(phantom.root, "2022", other)[what].read_bytes(), what


def test_another_seed_in_the_same_folder_is_refused(phantom):
    with pytest.raises(InputError, match="seed"):
        make_phantom(phantom.root, source=4, target=2, validation=1, seed=99, progress=False)


def test_every_site_gets_every_grade():
    for release, sites in (("2022", ["ldn", "etz"]), ("2023", ["ldn", "etz", "ukm"]), ("2022", ["etz"])):
        counts = {section: 4 * len(sites) for section in COUNTS}
        for seed in range(5):
            cases = plan_cases(release, sites, counts, seed)
            for section in counts:
                for site in sites:
                    grades = [case.koos for case in cases if (case.section, case.site) == (section, site)]
                    assert sorted(grades) == [1, 2, 3, 4]


def test_too_many_cases_are_refused():
    with pytest.raises(InputError, match="64"):
        plan_cases("2022", ["ldn", "etz"], COUNTS | {"target_validation": 65}, 0)


def test_names_of_release_2023(tmp_path):
    cases = plan_cases("2023", ["ldn", "etz", "ukm"], dict.fromkeys(COUNTS, 3), 0)
    images = {str(case_files(tmp_path, "2023", case)["image"].relative_to(tmp_path)) for case in cases}
    training = "crossmoda23_training"
    assert images == {
        f"{training}/TrainingSource/crossmoda2023_ldn_1_ceT1.nii.gz",
        f"{training}/TrainingSource/crossmoda2023_etz_1_ceT1.nii.gz",
        f"{training}/TrainingSource/crossmoda2023_ukm_1_ceT1.nii.gz",
        f"{training}/TrainingTarget/crossmoda2023_ldn_80_T2.nii.gz",
        f"{training}/TrainingTarget/crossmoda2023_etz_106_T2.nii.gz",
        f"{training}/TrainingTarget/crossmoda2023_ukm_44_T2.nii.gz",
        "crossmoda23_validation/crossmoda2023_ldn_185_T2.nii.gz",
        "crossmoda23_validation/crossmoda2023_etz_211_T2.nii.gz",
        "crossmoda23_validation/crossmoda2023_ukm_129_T2.nii.gz",
    }


def test_release_2023_on_disk(atlas, tmp_path):
    """One ukm case: three classes in the label, 1 extra-meatal, 2 intra-meatal, 3 cochlea."""
    (case,) = make_phantom(
        tmp_path, release="2023", sites=["ukm"], source=1, target=0, validation=0, seed=5, progress=False
    )
    source = tmp_path / "crossmoda23_training" / "TrainingSource"
    assert {path.name for path in source.iterdir()} == {f"{case.name}_ceT1.nii.gz", f"{case.name}_Label.nii.gz"}
    label = nib.load(source / f"{case.name}_Label.nii.gz")
    wanted = {0, 2, 3} if case.koos == 1 else {0, 1, 2, 3}
    assert set(np.unique(label.dataobj)) == wanted
    assert 0.35 <= label.header.get_zooms()[0] <= 0.86
    assert 0.78 <= label.header.get_zooms()[2] <= 3.5
    assert (tmp_path / "crossmoda23_training" / "infos_source_training.csv").exists()


def test_release_label_merges_the_parts_in_2022():
    parts = np.array([0, 1, 2, 3], np.uint8)
    assert release_label(parts, "2022").tolist() == [0, 1, 1, 2]
    assert release_label(parts, "2023").tolist() == [0, 1, 2, 3]
