"""The geometric baseline from files to grades, on simple heads made of boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from koos_heads import AFFINE, head, write_heads

from crossmoda.data import save_nifti
from crossmoda.errors import InputError
from crossmoda.koos import FEATURES, grade_by_geometry, parcellations, read_answers, read_table, train_geometry
from crossmoda.koos.baseline import explain, training_ranges
from crossmoda.koos.features import label_classes, structure_classes

SOURCE = structure_classes({"VS": [1], "cochlea": [2]}, {"brainstem": [1, 2, 3], "cerebellum": [4, 5]}, "parcellation")
PREDICTED = structure_classes({"VS": [1], "cochlea": [2]}, {"brainstem": [3], "cerebellum": [4]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("baseline")
    items = write_heads(folder / "data")
    train_geometry(items, SOURCE, folder / "geometry", num_folds=3, copies=1, progress=False)
    return folder, items


def test_training_writes_a_table_and_out_of_fold_grades(trained) -> None:
    folder, items = trained
    table, settings = read_table(folder / "geometry")
    assert table.values.shape == (24, len(FEATURES))
    assert table.copies.tolist() == [0, 1] * 12
    assert settings["model"] == "both"
    own = table.of({item["case"] for item in items}, copies=False)
    assert dict(zip(own.cases, own.grades.tolist(), strict=True)) == {item["case"]: item["koos"] for item in items}
    assert own.values[0, 0] == pytest.approx(np.sum(head(1, 0)[0] == 1) * 1.5 / 1000)
    assert not np.array_equal(table.values[table.copies == 1], own.values)
    answers = read_answers(folder / "geometry" / "out_of_fold" / "grades.csv")
    assert {answer.case for answer in answers} == {item["case"] for item in items}
    metrics = json.loads((folder / "geometry" / "out_of_fold" / "metrics.json").read_text())
    assert metrics["n"] == 12
    assert metrics["ma_mae"] <= 0.25


def test_training_again_gives_the_same_table_whatever_the_order(trained, tmp_path) -> None:
    folder, items = trained
    train_geometry(items[::-1], SOURCE, tmp_path, num_folds=3, copies=1, progress=False)
    first, again = read_table(folder / "geometry")[0], read_table(tmp_path)[0]
    for case in {item["case"] for item in items}:
        assert np.array_equal(first.of([case]).values, again.of([case]).values)
    before = {answer.case: answer for answer in read_answers(folder / "geometry" / "out_of_fold" / "grades.csv")}
    after = {answer.case: answer for answer in read_answers(tmp_path / "out_of_fold" / "grades.csv")}
    assert before.keys() == after.keys()


def test_new_cases_are_graded_with_reasons(trained, tmp_path, capsys) -> None:
    folder, items = trained
    inputs = [{"case": item["case"], "mask": item["mask"].replace("_Label", "_seg")} for item in items[:4]]
    empty = tmp_path / "empty_seg.nii.gz"
    save_nifti(np.zeros((90, 40, 24), np.uint8), AFFINE, empty)
    inputs.insert(1, {"case": "empty", "mask": str(empty)})
    answers = grade_by_geometry(inputs, PREDICTED, folder / "geometry", tmp_path / "out", progress=False)
    assert [answer.grade for answer in answers] == [1, None, 2, 3, 4]
    assert answers[1].flags == ("empty mask",)
    out = capsys.readouterr().out
    assert "case_3: Koos grade 4" in out
    assert "empty: no grade (empty mask)" in out
    assert "brainstem_contact_mm2" in out
    content = json.loads((tmp_path / "out" / "case_2_koos.json").read_text())
    low, high = content["training_ranges"]["volume_ml"]["3"]
    assert 0 < low < high
    assert [answer.grade for answer in read_answers(tmp_path / "out" / "grades.csv")] == [1, None, 2, 3, 4]


def test_structures_may_stand_in_files_of_their_own(trained, tmp_path) -> None:
    folder, items = trained
    inputs = [{"case": item["case"], "mask": item["mask"]} for item in items[:2]]
    (tmp_path / "s").mkdir()
    for item in items[:2]:
        (tmp_path / "s" / f"{item['case']}_seg.nii.gz").symlink_to(item["parcellation"])
    answers = grade_by_geometry(
        parcellations(inputs, tmp_path / "s"), SOURCE, folder / "geometry", tmp_path / "out", progress=False
    )
    table = read_table(folder / "geometry")[0]
    own = table.of([items[0]["case"]], copies=False)
    assert list(answers[0].features.values()) == pytest.approx(own.values[0].tolist(), rel=1e-5)
    (one,) = parcellations(inputs[:1], items[0]["parcellation"])
    assert one["parcellation"] == items[0]["parcellation"]
    with pytest.raises(InputError, match=r"case_0_seg\.nii\.gz is missing"):
        parcellations(inputs, tmp_path)


def test_a_missing_structure_is_flagged(trained, tmp_path) -> None:
    folder, items = trained
    inputs = [{"case": "a", "mask": items[3]["mask"]}]
    (answer,) = grade_by_geometry(inputs, PREDICTED, folder / "geometry", tmp_path / "out", progress=False)
    assert {"no brainstem", "no cerebellum"} <= set(answer.flags)
    assert "no cochlea on the tumour's side" not in answer.flags
    assert " - " in explain(answer)


def test_ranges_are_percentiles_of_the_cases_own_masks(trained) -> None:
    table, _ = read_table(trained[0] / "geometry")
    own = table.values[(table.copies == 0) & (table.grades == 2), 0]
    assert training_ranges(table)["volume_ml"][2] == pytest.approx([np.percentile(own, 10), np.percentile(own, 90)])


def test_classes_come_from_the_label_map(tmp_path) -> None:
    item = {"case": "a", "image": "a.nii.gz"}
    content = {"label_map": {"1": 1, "2": 1, "3": 2}, "source_training": [item]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    assert label_classes(tmp_path / "list.json") == {"VS": [1, 2], "cochlea": [3]}
    assert label_classes(tmp_path / "list.json", [1]) == {"VS": [1, 2], "cochlea": [3], "extra_meatal": [1]}


def test_faults_are_named(trained, tmp_path) -> None:
    folder, items = trained
    with pytest.raises(InputError, match=r"features\.csv is missing"):
        read_table(tmp_path)
    (tmp_path / "features.csv").write_text("case,koos,volume\na,1,2\n")
    with pytest.raises(InputError, match="other columns"):
        read_table(tmp_path)
    (tmp_path / "features.csv").write_text((folder / "geometry" / "features.csv").read_text())
    with pytest.raises(InputError, match="no trained baseline"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="unknown 'pons'"):
        structure_classes({"VS": [1]}, {"pons": [1]})
    with pytest.raises(InputError, match="has no VS"):
        structure_classes({"cochlea": [2]}, {})
    wrong = structure_classes({"VS": [1], "cochlea": [2]}, {"brainstem": [99]}, "parcellation")
    with pytest.raises(InputError, match="no brainstem in any"):
        train_geometry(items, wrong, tmp_path / "out", num_folds=3, copies=0, progress=False)
    none = structure_classes({"VS": [9]}, {"brainstem": [1]}, "parcellation")
    with pytest.raises(InputError, match="has no tumour"):
        train_geometry(items, none, tmp_path / "out", num_folds=3, copies=0, progress=False)
    parts = structure_classes({"VS": [1], "extra_meatal": [1]}, {"brainstem": [3]})
    with pytest.raises(InputError, match="differ in parts"):
        grade_by_geometry(items, parts, folder / "geometry", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
