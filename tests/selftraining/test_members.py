"""Members, and the bundle runs they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.errors import InputError
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.ensemble import read_ensemble, write_ensemble
from crossmoda.selftraining.members import prediction, read_members, training

CHEN = {
    "bundle": "segmentation-2.5d",
    "overlays": ["methods/chen2023"],
    "of_rounds": [{"round": 1}, {"round": 3}],
    "train": {"max_epochs": 2},
    "infer": {"overlap": 0.1},
}


def test_training_of_a_fold(tmp_path):
    (member,) = read_members({"m": {"bundle": "segmentation-3d", "folds": [0, 3]}}, ["phantom"])
    network = member.networks()[1]
    files, values = training(network, 1, "list.json", tmp_path, {"seed": 5}, "teacher.pt")
    assert [Path(file).stem for file in files] == ["train", "phantom", "student"]
    assert (network.name, values["fold"], values["seed"]) == ("m_fold3", 3, 5)
    assert values["initial_weights"] == "teacher.pt"
    assert values["samples_per_epoch"] == "$@iterations_per_epoch * @batch_size"


def test_options_of_rounds_hold_for_training_and_prediction(tmp_path):
    (member,) = read_members({"m": CHEN})
    (network,) = member.networks()
    for number, size in ((0, 1), (1, 3), (2, 3)):
        assert training(network, number, "list.json", tmp_path, {})[1]["round"] == size
        assert prediction(network, number, "a.pt", tmp_path, {})[1]["round"] == size
    files, values = prediction(network, 0, "a.pt", tmp_path, {"overlap": 0.5}, {"mirror_axes": [0]})
    assert [Path(file).stem for file in files] == ["inference", "chen2023"]
    assert (values["overlap"], values["mirror_axes"], values["ckpt_paths"]) == (0.1, [0], ["a.pt"])
    assert values["ckpt_dir"] == "."  # beside the weights
    assert values["save_probabilities"] is True
    assert "samples_per_epoch" not in training(network, 0, "list.json", tmp_path, {})[1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "at least one member"),
        ({"m": {"overlays": []}}, "no 'bundle'"),
        ({"m": {**CHEN, "epochs": 3}}, "unknown entry 'epochs'"),
        ({"m": {**CHEN, "overlays": ["methods/none"]}}, r"methods/none\.yaml is missing"),
        ({"m": {"bundle": "segmentation-4d"}}, "segmentation-4d"),
    ],
)
def test_faults(members, message):
    with pytest.raises(InputError, match=message):
        read_members(members)


def test_overlay_files_have_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("overlap: 0.1\n")
    monkeypatch.chdir(tmp_path)
    (member,) = read_members({"m": {**CHEN, "overlays": ["methods/chen2023", "own.yaml"]}}, ["phantom"])
    assert member.overlays == ["methods/chen2023", str(tmp_path / "own.yaml"), "phantom"]


def test_ensemble_on_disk_is_found_from_elsewhere(tmp_path):
    (member,) = read_members({"m": {**CHEN, "folds": [2]}})
    checkpoint = tmp_path / "a" / "round_1" / "model.pt"
    write_ensemble({member.networks()[0]: checkpoint}, 1, "mean", Classes((1, 2), 3), tmp_path / "a" / "e.json")
    (tmp_path / "a").rename(tmp_path / "b")
    content, ((network, path),) = read_ensemble(tmp_path / "b" / "e.json")
    assert (content["round"], content["fusion"], content["classes"]) == (1, "mean", Classes((1, 2), 3))
    assert (network.name, network.member.train) == ("m_fold2", {"max_epochs": 2})
    assert path == tmp_path / "b" / "round_1" / "model.pt"
    with pytest.raises(InputError, match="is missing"):
        read_ensemble(tmp_path / "a" / "e.json")
