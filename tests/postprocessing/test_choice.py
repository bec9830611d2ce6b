"""Choice of the post-processing rules that help in cross-validation."""

import json

import nibabel as nib
import numpy as np
import pytest

from crossmoda.errors import InputError
from crossmoda.postprocessing import Classes, choose_rules, read_rules, write_choice

IDENTITY = {0: 0, 1: 1, 2: 2}


def write(path, array):
    nib.save(nib.Nifti1Image(array.astype(np.uint8), np.diag([1, 1, 2, 1])), path)
    return str(path)


@pytest.fixture
def items(tmp_path):
    """A tumour and two cochleae; predicted with a large false tumour high above, and a speck of cochlea."""
    truth = np.zeros((20, 10, 40), np.uint8)
    truth[8:10, 4:6, 10:12] = 1  # 8 voxels
    truth[2:4, 4:6, 10:12] = truth[16:18, 4:6, 10:12] = 2  # 8 + 8
    cases = []
    for n in range(2):
        prediction = truth.copy()
        prediction[8:12, 4:8, 30:33] = 1  # 48 voxels
        if n:
            prediction[2, 8, 10] = 2
        cases.append(
            {
                "case": f"c{n}",
                "prediction": write(tmp_path / f"c{n}_seg.nii.gz", prediction),
                "label": write(tmp_path / f"c{n}_Label.nii.gz", truth),
            }
        )
    return cases


def test_keeps_what_raises_the_mean_dice(items, tmp_path):
    choice = choose_rules(items, (IDENTITY, IDENTITY), Classes(), threads=1)
    vs = 2 * 8 / (8 + 56)
    before = np.mean([(vs + 1) / 2, (vs + 32 / 33) / 2])
    assert choice["dice_before"] == pytest.approx(before)
    # the largest component is the false one: VS Dice falls to 0
    tried = {entry["rule"]: entry for entry in choice["tried"]}
    assert tried["largest_vs"]["dice"] == pytest.approx(np.mean([1 / 2, 32 / 33 / 2]))
    assert tried["vs_near_cochlea"]["dice"] == pytest.approx(np.mean([1, (1 + 32 / 33) / 2]))
    assert not tried["vs_not_above_cochlea"]["kept"]  # nothing is left to do
    assert choice["postprocessing_rules"] == ["vs_near_cochlea", "largest_cochlea_per_side"]
    assert choice["dice_after"] == 1
    assert choice["cases"] == 2
    write_choice(choice, tmp_path / "out" / "choice.json")
    assert json.loads((tmp_path / "out" / "choice.json").read_text()) == choice
    assert read_rules(tmp_path / "out" / "choice.json") == choice["postprocessing_rules"]


def test_keeps_none_where_none_helps(items):
    for item in items:
        item["prediction"] = item["label"]
    choice = choose_rules(items, (IDENTITY, IDENTITY), Classes(), threads=1)
    assert choice["postprocessing_rules"] == []
    assert choice["dice_before"] == choice["dice_after"] == 1


def test_three_classes(items, tmp_path):
    """Predictions of three classes, truth of two: VS is the union."""
    for item in items:
        labels = np.asarray(nib.load(item["prediction"]).dataobj)
        labels = np.where(labels == 2, 3, labels)
        labels[8, 4:6, 10:12] = 2
        item["prediction"] = write(tmp_path / f"{item['case']}_three.nii.gz", labels)
    choice = choose_rules(items, ({0: 0, 1: 1, 2: 1, 3: 2}, IDENTITY), Classes((1, 2), 3), threads=1)
    assert choice["dice_after"] == 1


def test_faults(items, tmp_path):
    maps = (IDENTITY, IDENTITY)
    with pytest.raises(InputError, match="no cases"):
        choose_rules([], maps, Classes())
    with pytest.raises(InputError, match="no post-processing rule 'x'"):
        choose_rules(items, maps, Classes(), rules=["x"])
    items[1]["prediction"] = write(tmp_path / "other_seg.nii.gz", np.zeros((20, 10, 39)))
    with pytest.raises(InputError, match=r"other_seg\.nii\.gz lies on another grid"):
        choose_rules(items, maps, Classes(), threads=1)


def test_rules_in_files(tmp_path):
    assert read_rules(["largest_vs"]) == ["largest_vs"]
    with pytest.raises(InputError, match=r"none\.json can't be read"):
        read_rules(str(tmp_path / "none.json"))
    for text in ("{}", "[", "[1]"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json names no post-processing rules"):
            read_rules(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"postprocessing_rules": ["best"]}')
    with pytest.raises(InputError, match="'best'"):
        read_rules(tmp_path / "a.json")
    with pytest.raises(InputError, match="give a list"):
        read_rules([1])
