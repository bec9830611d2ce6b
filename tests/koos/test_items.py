"""Cases of a Koos grade, and their folds."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from koos_bundle import affine, save, write_dataset

from crossmoda.errors import InputError
from crossmoda.koos import grade_folds, koos_inputs, koos_items, split_empty, split_fold, tumour_labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("koos") / "data", per_grade=2)


def changed(data, folder, change, name="datalist.json"):
    content = json.loads((data / name).read_text())
    change(content)
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_graded_cases_with_both_modalities(data, capsys):
    items = koos_items(data / "datalist.json", translations=data / "translations.json", progress=False)
    assert [item["case"] for item in items] == [f"case_{n}" for n in range(8)]
    assert [item["koos"] for item in items] == [1, 2, 3, 4] * 2
    first = items[0]
    assert first == {
        "case": "case_0",
        "site": "ldn",
        "koos": 1,
        "ceT1": str(data / "case_0_ceT1.nii.gz"),
        "hrT2": str(data / "case_0_hrT2.nii.gz"),
        "mask": str(data / "case_0_Label.nii.gz"),
    }
    assert "1 post-operative case(s)" in capsys.readouterr().out
    assert "hrT2" not in koos_items(data / "datalist.json", progress=False)[0]


def test_faults_of_graded_cases(data, tmp_path):
    def first(**values):
        return lambda content: content["source_training"][0].update(values)

    def without(name):
        return lambda content: content["source_training"][0].pop(name)

    for change, message in (
        (first(koos=5), "case_0 has Koos grade '5'"),
        (first(koos="2"), "case_0 has Koos grade '2'"),
        (first(koos=True), "case_0 has Koos grade 'True'"),
        (without("koos"), "case_0 has no 'koos'"),
        (without("label"), "has no label"),
        (lambda content: content.update(source_training=content["source_training"][-1:]), "no graded case"),
    ):
        with pytest.raises(InputError, match=message):
            koos_items(changed(data, tmp_path, change), progress=False)
    with pytest.raises(InputError, match="give --translations"):
        koos_items(data / "datalist.json", progress=False, pairs=True)
    short = changed(data, tmp_path, lambda content: content["source_training"].pop(3), "translations.json")
    with pytest.raises(InputError, match="no image of case case_3"):
        koos_items(data / "datalist.json", translations=short, progress=False)


def test_translation_on_another_grid(data, tmp_path):
    image = nib.load(data / "case_0_hrT2.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), tmp_path / "short.nii.gz")
    path = changed(
        data,
        tmp_path,
        lambda content: content["source_training"][0].update(image=str(tmp_path / "short.nii.gz"), label=None),
        "translations.json",
    )
    with pytest.raises(InputError, match="lies on another grid"):
        koos_items(data / "datalist.json", translations=path, progress=False)


def test_post_operative_cases_are_not_even_read(data, tmp_path):
    path = changed(data, tmp_path, lambda content: content["source_training"][-1].update(image="gone.nii.gz"))
    assert len(koos_items(path, progress=False)) == 8


def test_inputs_of_one_scan_and_of_a_section(data):
    scan, mask = data / "hidden_0_hrT2.nii.gz", data / "masks" / "hidden_0_seg.nii.gz"
    (one,) = koos_inputs(input=scan, mask=mask, progress=False)
    assert one == {"case": "hidden_0", "site": "", "hrT2": str(scan), "mask": str(mask)}
    items = koos_inputs(
        data_list=data / "datalist.json", section="target_validation", masks=data / "masks", progress=False
    )
    assert [item["case"] for item in items] == ["hidden_0", "hidden_1"]
    assert all("koos" not in item for item in items)


def test_both_modalities_of_an_input(data, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for n in range(9):
        case = "operated" if n == 8 else f"case_{n}"
        (masks / f"{case}_seg.nii.gz").write_bytes((data / f"{case}_Label.nii.gz").read_bytes())
    items = koos_inputs(
        data_list=data / "datalist.json",
        section="source_training",
        masks=masks,
        modality="ceT1",
        translations=data / "translations.json",
        progress=False,
    )
    assert (items[1]["ceT1"], items[1]["hrT2"]) == tuple(
        str(data / f"case_1_{name}.nii.gz") for name in ("ceT1", "hrT2")
    )


def test_faults_of_inputs(data, tmp_path):
    scan, mask = data / "hidden_0_hrT2.nii.gz", data / "masks" / "hidden_0_seg.nii.gz"
    for values, message in (
        ({"input": scan}, "give either --mask"),
        ({"input": scan, "mask": mask, "masks": data / "masks"}, "give either --mask"),
        ({"input": scan, "mask": tmp_path / "none.nii.gz"}, "is missing: segment hidden_0 first"),
        ({"input": scan, "masks": tmp_path}, "hidden_0_seg.nii.gz is missing"),
        ({"input": data, "mask": mask}, "both of case"),
        ({"input": scan, "mask": mask, "modality": "T2"}, "modality is 'T2'"),
    ):
        with pytest.raises(InputError, match=message):
            koos_inputs(**values, progress=False)


def test_empty_masks_are_set_apart(data, tmp_path):
    empty = save(np.full((24, 20, 14), 2, dtype=np.uint8), tmp_path / "empty.nii.gz")
    items = [{"case": "full", "mask": str(data / "masks/hidden_0_seg.nii.gz")}, {"case": "empty", "mask": empty}]
    assert split_empty(items) == (items[:1], items[1:])
    assert split_empty(items, tumour_labels=(2,)) == (items, [])
    assert np.array_equal(nib.load(empty).affine, affine())


def test_tumour_labels_of_a_list_that_merges_parts(data, tmp_path):
    assert tumour_labels(data / "datalist.json") == [1]
    path = changed(data, tmp_path, lambda content: content.update(label_map={"1": 1, "2": 1, "3": 2}))
    assert tumour_labels(path) == [1, 2]


def graded(counts):
    return [{"case": f"{grade}_{n}", "koos": grade} for grade, count in counts.items() for n in range(count)]


def test_folds_hold_every_grade_and_each_case_once():
    items = graded({1: 11, 2: 12, 3: 20, 4: 15})
    folds = grade_folds(items, 5, seed=3)
    assert sorted(case for fold in folds for case in fold) == sorted(item["case"] for item in items)
    for grade, count in {1: 11, 2: 12, 3: 20, 4: 15}.items():
        held = [sum(case.startswith(f"{grade}_") for case in fold) for fold in folds]
        assert max(held) - min(held) <= 1
        assert sum(held) == count
    assert grade_folds(items[::-1], 5, seed=3) == folds
    assert grade_folds(items, 5, seed=4) != folds


def test_items_of_one_subject_stay_together():
    items = [*graded({1: 4, 2: 4}), {"case": "1_0", "koos": 1, "view": "second"}]
    for fold in range(2):
        training, held_out = split_fold(items, fold, num_folds=2)
        assert len(training) + len(held_out) == 9
        assert not {item["case"] for item in training} & {item["case"] for item in held_out}
    with pytest.raises(InputError, match="1_0 has two Koos grades"):
        grade_folds([*items, {"case": "1_0", "koos": 2}], 2)


def test_faults_of_folds():
    items = graded({1: 3, 2: 3})
    for fold, num_folds, message in (
        (0, 5, "no Koos grade has more than 3"),
        (0, 1, "give 2 to 3"),
        (3, 3, "fold is 3"),
    ):
        with pytest.raises(InputError, match=message):
            split_fold(items, fold, num_folds)
