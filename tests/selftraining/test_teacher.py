"""From probabilities on disk to pseudo-labels and the students' data list."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crossmoda.data import read_label, read_sections, save_nifti, save_probabilities
from crossmoda.errors import InputError
from crossmoda.labels import IGNORE
from crossmoda.postprocessing import Classes
from crossmoda.selftraining import LowConfidence, score_case, teacher

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (6, 5, 4)


@pytest.fixture
def case(tmp_path):
    """A scan and two members' probabilities: one finds VS in plane 0, the other in planes 0 and 1."""
    save_nifti(np.random.RandomState(0).rand(*SHAPE).astype(np.float32), AFFINE, tmp_path / "x_hrT2.nii.gz")
    for member, planes in (("a", 1), ("b", 2)):
        p = np.zeros((3, *SHAPE))
        p[1, :planes] = 1
        p[2, 5] = 1
        p[0] = 1 - p.sum(axis=0)
        save_probabilities(p, AFFINE, tmp_path / member / "x_prob.nii.gz")
    return {"case": "x", "site": "ldn", "image": str(tmp_path / "x_hrT2.nii.gz")}


def test_evidence_is_the_mean_and_each_members_view(case, tmp_path):
    evidence = teacher.read_evidence(case, [tmp_path / "a"], [tmp_path / "b"], Classes())
    assert np.array_equal(evidence.probabilities[1, :2], np.stack([np.ones(SHAPE[1:]), np.zeros(SHAPE[1:])]))
    evidence = teacher.read_evidence(case, [tmp_path / "a", tmp_path / "b"], [], Classes())
    assert np.allclose(evidence.probabilities[1, :3, 0, 0], [1, 0.5, 0])
    assert [int((view == 1).sum()) for view in evidence.views] == [20, 40]
    assert score_case(evidence).values["agreement_VS"] == pytest.approx(2 * 20 / 60)


def test_union_and_mean_of_files(case, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    assert (teacher.fuse("x", folders, "union").labels == 1).sum() == 40
    assert teacher.fuse("x", folders).probabilities[1, 1].max() == 0.5


def test_pseudo_labels_keep_the_scans_grid_and_ignore_the_unsure(case, tmp_path):
    evidence = teacher.read_evidence(case, [tmp_path / "a", tmp_path / "b"], [], Classes())
    table = np.arange(256, dtype=np.uint8)
    teacher.write_pseudo_labels([case], iter([evidence]), tmp_path / "labels", ([], [LowConfidence(0.6)]), table)
    found, affine = read_label(tmp_path / "labels" / "x_Label.nii.gz", (0, 1, 2, IGNORE))
    assert np.array_equal(affine, AFFINE)
    assert [int(value) for value in found[:, 0, 0]] == [1, IGNORE, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("mapping", "num_classes", "expected"),
    [
        (None, 3, [0, 1, 2]),
        ({"1": 1, "2": 1, "3": 2}, 3, [0, 1, 3]),
        ({"1": 1, "2": 1, "3": 2}, 4, [0, 1, 2, 3]),
    ],
)
def test_pseudo_labels_have_the_label_files_classes(mapping, num_classes, expected, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"label_map": mapping} if mapping else {}))
    table = teacher.file_classes(path, num_classes)
    assert table[:num_classes].tolist() == expected
    assert table[IGNORE] == IGNORE


def test_targets_lose_their_labels(case, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"target_training": [{**case, "label": "truth.nii.gz", "koos": 3}]}))
    teacher.write_targets(path, tmp_path / "targets.json")
    (item,) = read_sections(tmp_path / "targets.json")["target_training"]
    assert item == case


def test_two_targets_of_one_name_would_overwrite_each_other(case, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"target_training": [case, {**case, "image": "other.nii.gz"}]}))
    with pytest.raises(InputError, match="case x twice"):
        teacher.write_targets(path, tmp_path / "targets.json")


def test_combined_list_holds_kept_cases_only(case, tmp_path):
    translated = tmp_path / "translated.json"
    item = {"case": "s", "site": "ldn", "image": "s.nii.gz", "label": "s_Label.nii.gz"}
    translated.write_text(json.dumps({"label_map": {"1": 1, "2": 1, "3": 2}, "source_training": [item]}))
    targets = [case, {**case, "case": "y"}]
    teacher.write_combined(translated, targets, tmp_path / "labels", ["y"], tmp_path / "out" / "list.json")
    content = json.loads((tmp_path / "out" / "list.json").read_text())
    assert content["label_map"] == {"0": 0, "1": 1, "2": 1, "3": 2}
    first, second = content["source_training"]
    assert first["image"] == "../s.nii.gz"
    assert "pseudo" not in first
    assert (second["case"], second["pseudo"], second["label"]) == ("y", True, "../labels/y_Label.nii.gz")


def test_no_translated_scans():
    with pytest.raises(InputError, match="no translated scans"):
        teacher.write_translated({}, None)
