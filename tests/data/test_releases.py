import json

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import find_by_patterns, find_release
from crossmoda.data.releases import attach_truth
from crossmoda.errors import InputError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.ones((6, 5, 4), np.uint8 if "Label" in name or "GIF" in name else np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def release_2021(root):
    touch(
        root,
        "crossmoda_training/source_training/crossmoda_1_ceT1.nii.gz",
        "crossmoda_training/source_training/crossmoda_1_Label.nii.gz",
        "crossmoda_training/source_training/crossmoda_10_ceT1.nii.gz",
        "crossmoda_training/source_training/crossmoda_10_Label.nii.gz",
        "crossmoda_training/source_training/crossmoda_2_ceT1.nii.gz",
        "crossmoda_training/source_training/crossmoda_2_Label.nii.gz",
        "crossmoda_training/target_training/crossmoda_106_hrT2.nii.gz",
        "crossmoda_validation/target_validation/crossmoda_211_hrT2.nii.gz",
    )


def release_2022(root):
    touch(
        root,
        "crossmoda2022_training/training_source/crossmoda2021_ldn_1_ceT1.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2021_ldn_1_Label.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2022_etz_0_ceT1.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2022_etz_0_Label.nii.gz",
        "crossmoda2022_training/training_source_GIF/crossmoda2021_ldn_1_GIFoutput.nii.gz",
        "crossmoda2022_training/training_target/crossmoda2022_etz_105_hrT2.nii.gz",
        "crossmoda2022_validation/validation/crossmoda2021_ldn_211_hrT2.nii.gz",
    )
    (root / "crossmoda2022_training" / "infos_source_training.csv").write_text(
        "crossmoda_name,center,group,koos\n"
        "crossmoda2021_ldn_1,london,a,post-operative-london\ncrossmoda2022_etz_0,tilburg,b,4\n"
    )


def release_2023(root):
    touch(
        root,
        "crossmoda23_training/TrainingSource/crossmoda2023_ukm_1_ceT1.nii.gz",
        "crossmoda23_training/TrainingSource/crossmoda2023_ukm_1_Label.nii.gz",
        "crossmoda23_training/TrainingTarget/crossmoda2023_ukm_44_T2.nii.gz",
        "crossmoda23_validation/crossmoda2023_etz_211_T2.nii.gz",
    )


def cases(release):
    return {section: [item["case"] for item in items] for section, items in release.sections.items()}


def test_2021_in_the_order_of_the_numbers(tmp_path):
    release_2021(tmp_path)
    release = find_release(tmp_path)
    assert (release.name, release.label_map, release.faults) == ("2021", None, [])
    assert cases(release) == {
        "source_training": ["crossmoda_1", "crossmoda_2", "crossmoda_10"],
        "target_training": ["crossmoda_106"],
        "target_validation": ["crossmoda_211"],
    }
    assert release.sections["source_training"][0]["site"] == "ldn"


@pytest.mark.parametrize("around", ["", "unpacked/once"])
def test_2022_with_koos_and_parcellation_at_any_depth(tmp_path, around):
    release_2022(tmp_path / around)
    release = find_release(tmp_path)
    assert (release.name, release.faults) == ("2022", [])
    london, tilburg = release.sections["source_training"]
    assert (london["site"], london["koos"]) == ("ldn", "post-operative-london")
    assert london["parcellation"].endswith("training_source_GIF/crossmoda2021_ldn_1_GIFoutput.nii.gz")
    assert (tilburg["site"], tilburg["koos"]) == ("etz", 4)
    assert "parcellation" not in tilburg
    assert cases(release)["target_validation"] == ["crossmoda2021_ldn_211"]
    # one of the archives alone
    inner = find_release(tmp_path / around / "crossmoda2022_training")
    assert len(inner.sections["source_training"]) == 2
    assert inner.sections["target_validation"] == []


def test_2023_has_three_classes_and_plain_t2(tmp_path):
    release_2023(tmp_path)
    release = find_release(tmp_path)
    assert (release.name, release.label_map) == ("2023", {0: 0, 1: 1, 2: 1, 3: 2})
    assert cases(release) == {
        "source_training": ["crossmoda2023_ukm_1"],
        "target_training": ["crossmoda2023_ukm_44"],
        "target_validation": ["crossmoda2023_etz_211"],
    }


def test_no_release_or_two(tmp_path):
    with pytest.raises(InputError, match="holds no crossMoDA release"):
        find_release(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_release(tmp_path / "nowhere")
    release_2021(tmp_path), release_2022(tmp_path)
    with pytest.raises(InputError, match="releases 2021 and 2022"):
        find_release(tmp_path)


def test_faults_of_the_set(tmp_path):
    release_2022(tmp_path)
    source = tmp_path / "crossmoda2022_training" / "training_source"
    (source / "crossmoda2022_etz_0_Label.nii.gz").unlink()
    touch(tmp_path, "copy/training_target/crossmoda2022_etz_105_hrT2.nii.gz")
    infos = tmp_path / "crossmoda2022_training" / "infos_source_training.csv"
    infos.write_text("crossmoda_name,koos\ncrossmoda2021_ldn_1,5\n")
    koos, label, double = find_release(tmp_path).faults
    assert koos.startswith(f"{infos}: koos of crossmoda2021_ldn_1 is 5")
    assert label.endswith("crossmoda2022_etz_0_ceT1.nii.gz has no label: add crossmoda2022_etz_0_Label.nii.gz")
    assert "both of case crossmoda2022_etz_105" in double
    (source / "crossmoda2021_ldn_1_Label.nii.gz").unlink()
    infos.write_text("name,grade\n")
    columns, labels, _ = find_release(tmp_path).faults
    assert "has no columns crossmoda_name and koos" in columns
    assert labels == f"{source} holds 2 source scans but no labels: add {{case}}_Label.nii.gz"


def test_truth_goes_to_the_target_sections(tmp_path):
    release_2022(tmp_path)
    touch(
        tmp_path,
        "truth/training_target/crossmoda2022_etz_105_Label.nii.gz",
        "truth/validation/crossmoda2021_ldn_211_Label.nii.gz",
    )
    (tmp_path / "truth" / "infos_target.csv").write_text("crossmoda_name,koos\ncrossmoda2022_etz_105,3\n")
    release = find_release(tmp_path)
    assert "truth/" not in json.dumps(release.sections)
    attach_truth(release, tmp_path / "truth")
    assert release.sections["target_training"][0]["label"].endswith(
        "truth/training_target/crossmoda2022_etz_105_Label.nii.gz"
    )
    assert release.sections["target_validation"][0]["label"].endswith("crossmoda2021_ldn_211_Label.nii.gz")
    assert release.sections["target_training"][0]["koos"] == 3
    assert "koos" not in release.sections["target_validation"][0]
    assert release.faults == []


def test_partial_truth(tmp_path):
    release_2022(tmp_path)
    touch(tmp_path, "crossmoda2022_training/training_target/crossmoda2022_etz_106_hrT2.nii.gz")
    touch(tmp_path, "truth/crossmoda2022_etz_105_Label.nii.gz")
    release = find_release(tmp_path)
    attach_truth(release, tmp_path / "truth")
    assert "label" not in release.sections["target_validation"][0]
    assert len(release.faults) == 1
    assert "has no crossmoda2022_etz_106_Label.nii.gz under" in release.faults[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no <case>_Label"):
        attach_truth(find_release(tmp_path), tmp_path / "empty")


def test_patterns(tmp_path):
    touch(
        tmp_path, "rome/p1/p1_T1.nii.gz", "rome/p1/p1_Label.nii.gz", "oslo/p2/p2_T1.nii.gz", "oslo/p2/p2_Label.nii.gz"
    )
    touch(tmp_path, "T2/p3_1_of_2.nii.gz", "oslo/p2/p9_T1.nii.gz")
    images = {"source_training": "{site}/{case}/{case}_T1.nii.gz", "target_training": "T2/{case}_*_of_*.nii.gz"}
    release = find_by_patterns(tmp_path, images, {"source_training": "*/*/{case}_Label.nii.gz"})
    assert [(item["case"], item["site"]) for item in release.sections["source_training"]] == [
        ("p2", "oslo"),
        ("p1", "rome"),
    ]
    assert release.sections["source_training"][1]["label"].endswith("rome/p1/p1_Label.nii.gz")
    assert cases(release)["target_training"] == ["p3"]
    assert release.faults == []


def test_wrong_patterns(tmp_path):
    touch(tmp_path, "a_T1.nii.gz", "b_T1.nii.gz", "a_Label.nii.gz")
    images = {"source_training": "{case}_T1.nii.gz"}
    with pytest.raises(InputError, match="holds no file matching"):
        find_by_patterns(tmp_path, {"source_training": "{case}_T9.nii.gz"}, {})
    with pytest.raises(InputError, match=r"needs \{case\}"):
        find_by_patterns(tmp_path, {"source_training": "*_T1.nii.gz"}, {})
    with pytest.raises(InputError, match=r"needs \{case\}"):
        find_by_patterns(tmp_path, {"source_training": "{subject}/{case}.nii.gz"}, {})
    assert "no labels: add a pattern --source_labels" in find_by_patterns(tmp_path, images, {}).faults[0]
    labels = {"source_training": "{case}_Label.nii.gz"}
    assert find_by_patterns(tmp_path, images, labels).faults == [
        f"{tmp_path / 'b_T1.nii.gz'} has no label: add b_Label.nii.gz"
    ]
