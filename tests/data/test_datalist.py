import json
import re

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import (
    label_map,
    load_datalist,
    load_datalist_or_exit,
    merges_parts,
    part_map,
    read_sections,
    replace_images,
    split_cases,
    write_datalist,
)
from crossmoda.errors import InputError


def volume(path, value=1.0, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((6, 5, 4), value, dtype)
    array[0] = 0
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def items(tmp_path):
    return [
        {
            "case": f"c{index}",
            "site": "ldn",
            "image": volume(tmp_path / "scans" / f"c{index}_ceT1.nii.gz"),
            "label": volume(tmp_path / "scans" / f"c{index}_Label.nii.gz", 1, np.uint8),
            "koos": 3,
        }
        for index in range(3)
    ]


@pytest.fixture
def data_list(items, tmp_path):
    write_datalist({"source_training": items, "target_training": []}, tmp_path / "lists" / "datalist.json")
    return tmp_path / "lists" / "datalist.json"


def test_paths_are_relative_in_the_file_and_absolute_when_loaded(items, data_list, tmp_path):
    assert json.loads(data_list.read_text())["source_training"][0]["image"] == "../scans/c0_ceT1.nii.gz"
    loaded = load_datalist(data_list, "source_training", require_label=True, extra_keys=("koos",))
    assert loaded == items
    (tmp_path / "scans").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "scans")
    assert load_datalist(data_list, "source_training")[0].keys() == {"case", "site", "image", "label"}
    assert [path.name for path in data_list.parent.iterdir()] == ["datalist.json"]


@pytest.mark.parametrize("section", ["target_training", "target_validation"])
def test_empty_section(data_list, section):
    with pytest.raises(InputError, match=re.escape(f"{data_list} has no items in section '{section}'")):
        load_datalist(data_list, section)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"source_training": [{"case": "a"}]}', '{"source_training": {}}'])
def test_malformed_list(tmp_path, text):
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(InputError, match=r"datalist\.json"):
        load_datalist(tmp_path / "datalist.json", "source_training")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file"),
        ("{}", "has no items in source_training, target_training, target_validation"),
        ('{"source_training": [{"case": "a"}]}', "item 0 has no 'image'"),
        ('{"source_training": ["a"]}', "item 0 has no 'case'"),
        ('{"source_training": [{"case": "a", "image": 5}]}', "item 0: 'image' is no text"),
        ('{"source_training": [{"case": ["a"], "image": "a.nii"}]}', "item 0: 'case' is no text"),
        ('{"source_training": [{"case": "a", "image": "a.nii", "label": {"b": 1}}]}', "item 0: 'label' is no text"),
        ('{"source_traning": [{"case": "a", "image": "a.nii"}]}', "has an unknown section 'source_traning': name it"),
    ],
)
def test_malformed_sections(tmp_path, text, words):
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read_sections(tmp_path / "datalist.json")
    assert str(tmp_path / "datalist.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sections_with_all_their_keys(items, data_list):
    assert read_sections(data_list) == {"source_training": items}


def test_missing_list(tmp_path):
    with pytest.raises(InputError, match="is missing: make it with"):
        load_datalist(tmp_path / "datalist.json", "source_training")


def test_first_fault_is_named_and_the_others_counted(items, data_list, tmp_path):
    (tmp_path / "scans" / "c1_ceT1.nii.gz").unlink()
    (tmp_path / "scans" / "c2_Label.nii.gz").unlink()
    with pytest.raises(InputError, match=r"c1_ceT1.nii.gz is missing.*\(and 1 more such faults\)"):
        load_datalist(data_list, "source_training")


def test_or_exit_gives_one_line_and_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        load_datalist_or_exit(tmp_path / "datalist.json", "source_training")
    assert caught.value.code == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert captured.startswith(f"error: {tmp_path / 'datalist.json'} is missing")


def test_label_map_widens_the_allowed_values(items, tmp_path):
    volume(tmp_path / "scans" / "c0_Label.nii.gz", 3, np.uint8)
    path = tmp_path / "datalist.json"
    write_datalist({"source_training": items}, path)
    assert label_map(path) == {0: 0, 1: 1, 2: 2}
    with pytest.raises(InputError, match="label values 3"):
        load_datalist(path, "source_training")
    write_datalist({"source_training": items}, path, {0: 0, 1: 1, 2: 1, 3: 2})
    assert label_map(path) == {0: 0, 1: 1, 2: 1, 3: 2}
    assert len(load_datalist(path, "source_training")) == 3


@pytest.mark.parametrize("entries", ['{"a": 1}', "[1]", '{"1": 7}'])
def test_wrong_label_map(tmp_path, entries):
    (tmp_path / "datalist.json").write_text(f'{{"label_map": {entries}}}')
    with pytest.raises(InputError, match="label_map"):
        label_map(tmp_path / "datalist.json")


def test_replaced_images_keep_labels_and_what_the_list_holds(items, tmp_path):
    source = tmp_path / "datalist.json"
    write_datalist({"source_training": items}, source, {1: 1, 2: 1, 3: 2})
    for item in items:
        volume(tmp_path / "out" / f"{item['case']}_hrT2.nii.gz")
    loaded = load_datalist(source, "source_training")
    replace_images(loaded, tmp_path / "out", "hrT2", tmp_path / "out" / "datalist.json", data_list=source)
    replaced = load_datalist(tmp_path / "out" / "datalist.json", "source_training", True, extra_keys=("koos",))
    assert replaced == [{**item, "image": str(tmp_path / "out" / f"{item['case']}_hrT2.nii.gz")} for item in items]
    assert label_map(tmp_path / "out" / "datalist.json") == {0: 0, 1: 1, 2: 1, 3: 2}
    (tmp_path / "out" / "c2_hrT2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"c2_hrT2\.nii\.gz is missing"):
        replace_images(loaded, tmp_path / "out", "hrT2", tmp_path / "out" / "datalist.json")


def test_split_is_stratified_deterministic_and_by_case():
    items = [{"case": f"{site}{n}", "site": site} for site, count in (("ldn", 20), ("etz", 10)) for n in range(count)]
    doubled = items + [dict(item, image="other translator") for item in items]
    train, validation = split_cases(doubled, 0.2, seed=1)
    assert len(train) == 48
    assert {item["case"] for item in train}.isdisjoint(item["case"] for item in validation)
    assert sorted(item["site"] for item in validation) == ["etz"] * 4 + ["ldn"] * 8
    again = split_cases(doubled[::-1], 0.2, seed=1)[1]
    assert {item["case"] for item in again} == {item["case"] for item in validation}
    other = split_cases(doubled, 0.2, seed=2)[1]
    assert {item["case"] for item in other} != {item["case"] for item in validation}


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_split_leaves_neither_part_empty(fraction):
    train, validation = split_cases([{"case": "a", "site": "x"}, {"case": "b", "site": "y"}], fraction, 0)
    assert len(train) == len(validation) == 1


def test_split_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="at least two cases"):
        split_cases([{"case": "a"}], 0.5, 0)
    with pytest.raises(InputError, match="between 0 and 1"):
        split_cases([{"case": "a"}, {"case": "b"}], 1.0, 0)


def test_folds_part_the_cases_evenly():
    items = [{"case": f"{site}{n}", "site": site} for site, count in (("ldn", 20), ("etz", 12)) for n in range(count)]
    doubled = items + [dict(item, image="other translator") for item in items]
    folds = [split_cases(doubled, 0.2, seed=1, fold=fold) for fold in range(5)]
    held_out = [{item["case"] for item in validation} for _, validation in folds]
    assert sorted(case for cases in held_out for case in cases) == sorted(item["case"] for item in items)
    assert sorted(len(cases) for cases in held_out) == [6, 6, 6, 7, 7]
    for (training, validation), cases in zip(folds, held_out, strict=True):
        assert training == [item for item in doubled if item["case"] not in cases]
        assert validation == [item for item in doubled if item["case"] in cases]
        assert abs(sum(case.startswith("etz") for case in cases) - 12 / 5) <= 1.4  # of 2.4 a fold
    again = [{item["case"] for item in split_cases(doubled[::-1], 0.9, 1, fold)[1]} for fold in range(5)]
    assert again == held_out  # whatever the order and val_fraction
    other = [{item["case"] for item in split_cases(doubled, 0.2, 2, fold)[1]} for fold in range(5)]
    assert other != held_out


def test_number_of_folds():
    items = [{"case": name, "site": "x"} for name in "abcdef"]
    assert [len(split_cases(items, 0.2, 0, fold, 6)[1]) for fold in range(6)] == [1] * 6
    first = split_cases([*items, *({"case": n, "site": "y"} for n in "ghij")], 0.2, 3)[1]
    assert first == split_cases([*items, *({"case": n, "site": "y"} for n in "ghij")], 0.2, 3, 0, 5)[1]


@pytest.mark.parametrize(
    ("count", "fold", "num_folds", "message"),
    [(10, 5, 5, "0 to num_folds"), (10, -1, 5, "0 to num_folds"), (10, 0, 1, "two folds"), (3, 0, 5, "num_folds <= 3")],
)
def test_folds_that_cannot_be(count, fold, num_folds, message):
    with pytest.raises(InputError, match=message):
        split_cases([{"case": str(n)} for n in range(count)], 0.2, 0, fold, num_folds)


def test_labels_with_parts_of_the_tumour(items, data_list, tmp_path):
    identity, swapped = {0: 0, 1: 1, 2: 2, 3: 3}, {0: 0, 1: 2, 2: 1, 3: 3}
    merging = tmp_path / "2023.json"
    write_datalist({"source_training": items}, merging, {0: 0, 1: 1, 2: 1, 3: 2})
    assert part_map(merging, identity) == identity
    assert part_map(merging, swapped) == swapped
    assert not merges_parts(label_map(merging), {0: 0, 1: 1, 2: 3, 3: 2})
    assert not merges_parts(label_map(data_list), {0: 0, 1: 1, 2: 2})
    message = f"{data_list} has labels without parts of the tumour (label_map {{0: 0, 1: 1, 2: 2}}): take a list of"
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        part_map(data_list, identity)
    assert "\n" not in str(caught.value)


def test_needed_keys_are_kept_and_their_lack_is_named(data_list):
    with pytest.raises(InputError, match="no 'parcellation': add it, or leave it out"):
        load_datalist(data_list, "source_training", needs=("parcellation",))
    assert all("koos" in item for item in load_datalist(data_list, "source_training", needs=("koos",)))
