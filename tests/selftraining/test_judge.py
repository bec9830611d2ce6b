"""Label-free numbers of a round, the early stop, and the choice of the ensemble."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crossmoda.data import save_nifti, save_probabilities
from crossmoda.errors import InputError
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.choice import BestFolds, BestSingleOrPair, best_validation_dice, candidates_dice
from crossmoda.selftraining.judge import EarlyStop, agreement, mean_of

AFFINE = np.eye(4)


def write(folder, case, label):
    save_nifti(label.astype(np.uint8), AFFINE, folder / f"{case}_seg.nii.gz")


def test_agreement_is_the_dice_of_two_rounds(tmp_path):
    first = np.zeros((4, 4, 2))
    first[0, :2] = 1
    first[3] = 2
    second = np.zeros((4, 4, 2))
    second[0, 1:3] = 1
    second[3] = 2
    for name, label in (("a", first), ("b", second)):
        write(tmp_path / name, "x", label)
    found = agreement(["x"], tmp_path / "a", tmp_path / "b", Classes())
    assert found == {"x": {"VS": 0.5, "cochlea": 1.0, "mean": 0.75}}
    assert mean_of(found | {"y": {"VS": 1.0, "cochlea": 0.0, "mean": 0.5}}) == {
        "VS": 0.75,
        "cochlea": 0.5,
        "mean": 0.625,
    }


def test_parts_of_the_tumour_agree_together(tmp_path):
    label = np.zeros((4, 4, 2))
    label[0] = 1
    other = np.where(label == 1, 2, 0)
    for name, array in (("a", label), ("b", other)):
        write(tmp_path / name, "x", array)
    assert agreement(["x"], tmp_path / "a", tmp_path / "b", Classes((1, 2), 3))["x"]["VS"] == 1.0


def rounds(*values, name="plausible_share"):
    return [{} if value is None else {name: value} for value in values]


def test_without_a_criterion_all_rounds_count():
    assert EarlyStop().best(rounds(0.9, 0.1)) == 1
    assert not EarlyStop().is_due(rounds(0.9, 0.1))


@pytest.mark.parametrize(
    ("values", "patience", "best", "due"),
    [
        ([0.5], 1, 0, False),
        ([0.5, 0.6], 1, 1, False),
        ([0.5, 0.6, 0.6], 1, 1, True),
        ([0.5, 0.6, 0.6], 2, 1, False),
        ([0.5, 0.6, 0.55, 0.7], 2, 3, False),
        ([0.5, 0.505], 1, 0, True),
    ],
)
def test_early_stop(values, patience, best, due):
    stop = EarlyStop("plausible_share", min_gain=0.01, patience=patience)
    assert (stop.best(rounds(*values)), stop.is_due(rounds(*values))) == (best, due)


def test_agreement_is_first_known_in_round_one():
    stop = EarlyStop("agreement")
    history = [{}, {"agreement": {"mean": 0.8}}, {"agreement": {"mean": 0.7}}]
    assert not stop.is_due(history[:1])
    assert not stop.is_due(history[:2])
    assert (stop.best(history), stop.is_due(history)) == (1, True)


def test_unknown_criterion():
    with pytest.raises(InputError, match="no criterion 'dice'"):
        EarlyStop("dice").check()


def test_best_folds_of_each_member():
    members = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"], "c": ["c0"]}
    dice = {"a0": 0.5, "a1": 0.9, "a2": 0.8, "b0": 0.1, "b1": 0.2, "c0": 0.0}
    assert BestFolds({"a": 2, "b": 1}).choose(members, dice) == ["a1", "a2", "b1", "c0"]


def test_best_validation_dice(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,val_mean_dice\n1,0.5,0.4\n2,0.4,0.7\n3,0.3,0.6\n")
    assert best_validation_dice(tmp_path) == 0.7
    (tmp_path / "history.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(InputError, match="val_interval"):
        best_validation_dice(tmp_path)


def test_best_single_or_pair(tmp_path):
    """Two members that err in other places, and sure where they are right: the pair is right everywhere."""
    truth = np.zeros((4, 4, 2), np.uint8)
    truth[0], truth[3] = 1, 2
    save_nifti(truth, AFFINE, tmp_path / "label.nii.gz")
    sure = np.moveaxis(np.eye(3)[truth], -1, 0)
    half = {"a": slice(0, 2), "b": slice(2, 4)}
    predictions = {}
    for name, right in half.items():
        p = np.stack([np.full(truth.shape, value) for value in (0.4, 0.3, 0.3)])
        p[0][truth == 0] = 1
        p[1:][:, truth == 0] = 0
        p[:, :, right] = sure[:, :, right]
        predictions[name] = tmp_path / f"{name}.nii.gz"
        save_probabilities(p, AFFINE, predictions[name])
    data_list = tmp_path / "list.json"
    data_list.write_text(json.dumps({"source_training": []}))
    item = {"label": tmp_path / "label.nii.gz", "predictions": predictions}
    dice = candidates_dice([item], ["a", "b"], data_list, Classes())
    assert dice[("a", "b")] == 1.0
    assert max(dice[("a",)], dice[("b",)]) < 1.0
    assert BestSingleOrPair().choose(dice) == ("a", "b")
    assert BestSingleOrPair().choose({("a",): 0.8, ("b",): 0.7, ("a", "b"): 0.8}) == ("a",)
