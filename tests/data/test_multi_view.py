import json

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import load_datalist, pool_views, pool_views_or_exit, split_cases, write_datalist
from crossmoda.errors import InputError

CASES = [f"c{i}" for i in range(5)]


def save(path, value, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((4, 4, 3), value, dtype)
    array[0] = 0
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def views(tmp_path):
    """Two translators' lists, whose labels are the same files."""
    lists = {}
    for value, view in enumerate(("cyclegan", "qs_attn"), start=100):
        items = [
            {
                "case": case,
                "site": "ldn" if i < 3 else "etz",
                "image": save(tmp_path / view / f"{case}_hrT2.nii.gz", value, np.int16),
                "label": save(tmp_path / "scans" / f"{case}_Label.nii.gz", 1, np.uint8),
                "koos": 2,
            }
            for i, case in enumerate(CASES)
        ]
        lists[view] = tmp_path / view / "datalist.json"
        write_datalist({"source_training": items}, lists[view])
    return lists


def change(data_list, edit):
    content = json.loads(data_list.read_text())
    edit(content)
    data_list.write_text(json.dumps(content))


def test_each_case_comes_once_a_view_with_its_label(views, tmp_path):
    assert pool_views(views, tmp_path / "pool" / "datalist.json") == 10
    items = load_datalist(tmp_path / "pool" / "datalist.json", "source_training", True, extra_keys=("view", "koos"))
    assert [(item["case"], item["view"]) for item in items] == [(case, view) for view in views for case in CASES]
    for item in items:
        assert item["image"] == str(tmp_path / item["view"] / f"{item['case']}_hrT2.nii.gz")
        assert item["label"] == str(tmp_path / "scans" / f"{item['case']}_Label.nii.gz")
        assert item["koos"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_views_of_a_case_stay_together_in_a_split(views, tmp_path, seed):
    pool_views(views, tmp_path / "datalist.json")
    items = load_datalist(tmp_path / "datalist.json", "source_training", check="none")
    training, validation = split_cases(items, 0.4, seed)
    assert (len(training), len(validation)) == (6, 4)
    assert not {item["case"] for item in training} & {item["case"] for item in validation}


def test_label_map_is_kept(views, tmp_path):
    for data_list in views.values():
        change(data_list, lambda content: content.update(label_map={"1": 1, "2": 1, "3": 2}))
    pool_views(views, tmp_path / "datalist.json")
    assert json.loads((tmp_path / "datalist.json").read_text())["label_map"]["3"] == 2


def test_faults_are_one_line(views, tmp_path):
    out = tmp_path / "datalist.json"
    for wrong in (None, {}, "a.json", {"cyclegan": views["cyclegan"]}):
        with pytest.raises(InputError, match="at least two views"):
            pool_views(wrong, out)
    with pytest.raises(InputError, match=r"none\.json is missing"):
        pool_views({**views, "third": tmp_path / "none.json"}, out)
    with pytest.raises(InputError, match="is in both 'cyclegan' and 'again'"):
        pool_views({**views, "again": views["cyclegan"]}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["source_training"].pop(), "has no c4: translate the same cases"),
        (lambda content: content["source_training"].append(content["source_training"][0]), "holds a case twice"),
        (lambda content: content["source_training"][1].update(label="other.nii.gz"), "another label for c1"),
        (lambda content: content.update(label_map={"1": 2, "2": 1}), "another label_map"),
    ],
)
def test_lists_that_do_not_fit_together(views, tmp_path, edit, message, capsys):
    change(views["qs_attn"], edit)
    with pytest.raises(SystemExit) as exit_info:
        pool_views_or_exit(views, tmp_path / "datalist.json")
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
