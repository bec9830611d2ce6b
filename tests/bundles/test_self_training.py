"""The self-training bundle, run as a user runs it, on tiny synthetic scans."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from segmentation_bundle import ROOT, load, same_weights, write_case
from self_training_bundle import (
    CONFIGS,
    METHODS,
    command,
    config_files,
    run_in_process,
    tiny,
    values,
    write_data,
)

from crossmoda.labels import CLASS_NAMES, IGNORE
from crossmoda.metrics import read_metrics
from crossmoda.selftraining import ensemble, held_out, rounds
from crossmoda.selftraining.rounds import Rounds

VIEWS = {"kang2022": ("cyclegan", "qs_attn")}
SLOW = pytest.mark.slow
OPENED: list[str] = []


def remember(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(remember)  # sees every file that Python opens in this process


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "scans")


@pytest.fixture(autouse=True)
def steps_in_process(request, monkeypatch):
    """Steps run in this process, which spares their start; what was started is noted."""
    started = []

    def in_process(name, files, overrides, log, environment=None, processes=1):
        started.append((name, files, dict(overrides)))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("in process\n")
        run(config_file=list(files), logging_file=False, **overrides)

    for module in (rounds, held_out, ensemble):
        monkeypatch.setattr(module, "run_bundle", in_process)
    request.node.started = started


def files_of(folder, method, **entries):
    entries = {"selection_rules": [], "cleaning_rules": [], **entries}
    return tiny(folder, f"methods/{method}", "phantom", extra_overlays=[], folds=2, **entries)


def self_train(folder, lists, method, entries=None, views=False, **more):
    """A method's rounds, without the networks' further views; returns the folder of the results."""
    folder.mkdir(exist_ok=True)
    if method == "chen2023" and not views:
        more.setdefault("members::resunet2d5::views", [])
    files = files_of(folder, method, **(entries or {}))
    run_in_process(files, values(lists, folder / "out", VIEWS.get(method, ("cyclegan",)), **more))
    return folder / "out"


def read_json(path):
    return json.loads(path.read_text())


# --- the bundle's form --------------------------------------------------------------------------------------------


def test_metadata_follows_the_schema():
    schema = read_json(ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json")
    metadata = read_json(CONFIGS / "metadata.json")
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]
    classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {int(key): value for key, value in classes.items()} == CLASS_NAMES


@pytest.mark.parametrize("phantom", [False, True], ids=["paper", "phantom"])
@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_config_is_built(method, phantom, lists, tmp_path):
    names = [*([f"methods/{method}"] if method else []), *(["phantom"] if phantom else [])]
    parser = ConfigParser()
    parser.read_config(config_files("train", *names))
    parser.update(values(lists, tmp_path))
    parser.parse()
    trainer = parser.get_parsed_content("trainer")
    assert isinstance(trainer, Rounds)
    trainer._prepare()  # finds every overlay of every member
    networks = trainer._networks(1)
    expected = {"shin2021": (10, 2), "kang2022": (10, 2), "li2021": (4, 4)}.get(method, (1, 1))
    assert len(networks) == expected[phantom]
    assert all(("phantom" in network.member.overlays) == phantom for network in networks)


def test_no_config_but_the_evaluation_names_the_truth():
    for path in CONFIGS.rglob("*.yaml"):
        content = str(ConfigParser.load_config_file(path)).lower()
        assert ("oracle" in content or "truth" in content) == (path.name == "evaluate.yaml"), path


def test_papers_numbers():
    def parsed(method):
        parser = ConfigParser()
        parser.read_config(config_files("train", f"methods/{method}"))
        return parser

    shin, kang, chen, li = (parsed(method) for method in METHODS)
    assert shin["ensemble::counts"] == {"nnunet_2d": 2, "nnunet_3d": 3}
    assert (shin["rounds"], kang["rounds"], shin["num_folds"], kang["num_folds"]) == (1, 2, 5, 5)
    assert kang["selection_rules"] == []
    assert chen["student_weights"] == "previous"
    assert chen["members::resunet2d5::of_rounds"] == [{"round": 1}, {"round": 2}, {"round": 3}]
    assert (chen["threshold"], chen["voxel_threshold"]) == (0.9, 0.6)
    assert li["fusion"] == "union"


# --- rounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [pytest.param(name, marks=SLOW if name in VIEWS else ()) for name in METHODS])
def test_method_does_all_its_rounds(method, lists, tmp_path, request):
    out = self_train(tmp_path, lists, method, views=True)
    summary = read_json(out / "metrics.json")
    last = {"shin2021": 1, "kang2022": 2, "chen2023": 2, "li2021": 1}[method]
    assert summary["final_round"] == last
    assert [item["round"] for item in summary["rounds"]] == list(range(last + 1))
    for number in range(1, last + 1):
        folder = out / f"round_{number}"
        with (folder / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["kept"] for row in rows] == ["yes"] * 4
        combined = read_json(folder / "datalist.json")["source_training"]
        assert sum(item.get("pseudo", False) for item in combined) == 4
        assert len(combined) == 4 + 5 * len(VIEWS.get(method, ("cyclegan",)))
        for row in rows:
            label = nib.load(folder / "pseudo_labels" / f"{row['case']}_Label.nii.gz")
            assert set(np.unique(label.dataobj)) <= {0, 1, 2, IGNORE}
        assert 0 <= summary["rounds"][number]["agreement"]["mean"] <= 1
        assert "What changed most" in (folder / "index.html").read_text()
        assert (folder / "pictures" / "kept.png").is_file()
    CHECKS[method](out, request.node.started)


def check_shin(out, started):
    assert [n["checkpoint"] for n in read_json(out / "ensemble.json")["networks"]] == [
        f"round_1/networks/{name}_fold0/model/model.pt" for name in ("nnunet_3d", "nnunet_2d")
    ]
    assert not (out / "round_0/networks/nnunet_2d_fold0").exists()


def check_kang(out, started):
    choice = read_json(out / "round_2/held_out/choice.json")
    assert set(choice["dice"]) == {"nnunet_3d", "nnunet_2d", "nnunet_3d + nnunet_2d"}
    assert choice["dice"][" + ".join(choice["chosen"])] == max(choice["dice"].values())
    assert choice["cases"] == 2 * 2  # a fold's held-out cases, in two views


def check_chen(out, started):
    trainings = [overrides for name, _, overrides in started if "training" in name]
    assert [item["round"] for item in trainings] == [1, 2, 3]
    assert trainings[0]["initial_weights"] is None
    for number in (1, 2):
        assert trainings[number]["initial_weights"].endswith(f"round_{number - 1}/networks/resunet2d5/model/model.pt")
    predictions = [overrides for name, _, overrides in started if "prediction" in name]
    assert [item["round"] for item in predictions] == [1] * 2 + [2] * 2 + [3] * 2  # and one view each
    label = nib.load(out / "round_1/pseudo_labels/case_10_Label.nii.gz")
    assert IGNORE in np.unique(label.dataobj)  # an untrained network is not sure of anything


def check_li(out, started):
    assert read_json(out / "ensemble.json")["fusion"] == "union"
    assert len(read_json(out / "ensemble.json")["networks"]) == 4


CHECKS = {"shin2021": check_shin, "kang2022": check_kang, "chen2023": check_chen, "li2021": check_li}


@pytest.mark.parametrize("method", METHODS)
def test_target_truth_is_never_opened(method, lists, tmp_path):
    """Even where the data list names it."""
    OPENED.clear()
    self_train(tmp_path, lists, method, data_list=str(lists["oracle"]), rounds=1)
    truth = str(lists["oracle"].parent)
    assert {path for path in OPENED if path.startswith(truth)} == {str(lists["oracle"])}
    assert any(path.endswith("case_10_hrT2.nii.gz") for path in OPENED)  # the hook sees what is opened
    assert all("label" not in item for item in read_json(tmp_path / "out/targets.json")["target_training"])


def test_finished_steps_are_passed_over_and_changed_ones_are_done_again(lists, tmp_path, request):
    self_train(tmp_path, lists, "chen2023", rounds=1)
    first = len(request.node.started)
    self_train(tmp_path, lists, "chen2023", rounds=1)
    assert len(request.node.started) == first
    self_train(tmp_path, lists, "chen2023", rounds=1, voxel_threshold=0.34)
    assert [name.split(", ")[0] for name, _, _ in request.node.started[first:]] == ["round 1"] * 2


def test_given_teacher_is_not_trained(lists, tmp_path, request):
    teacher = self_train(tmp_path / "first", lists, "li2021", rounds=0)
    paths = {name: [str(teacher / f"round_0/networks/{name}/model/model.pt")] for name in LI}
    request.node.started.clear()
    out = self_train(tmp_path, lists, "li2021", rounds=0, teachers=paths)
    assert all("prediction" in name for name, _, _ in request.node.started)
    assert len(read_json(out / "ensemble.json")["networks"]) == 4
    for name, (path,) in paths.items():  # the results stand alone
        assert same_weights(load(out / f"round_0/networks/{name}/model/model.pt"), load(path))


LI = ("unet2d5_gamma20", "unet2d5_gamma15", "unet3d", "unet3d_attention")


def test_no_case_kept_ends_with_the_teacher(lists, tmp_path):
    never = {"_target_": "crossmoda.selftraining.AtLeast", "names": ["confidence_foreground"], "minimum": 1.1}
    out = self_train(tmp_path, lists, "chen2023", entries={"selection_rules": [never]})
    assert read_json(out / "metrics.json")["final_round"] == 0
    assert "confidence_foreground" in (out / "round_1/scores.csv").read_text()
    assert read_json(out / "round_1/metrics.json")["kept"] == 0
    assert "confidence_foreground" in (out / "round_1/index.html").read_text()


def test_early_stop_by_a_criterion(lists, tmp_path):
    stop = {"early_stop::criterion": "source_dice", "early_stop::min_gain": 2}
    out = self_train(tmp_path, lists, "chen2023", rounds=2, **stop)
    summary = read_json(out / "metrics.json")
    assert (summary["final_round"], len(summary["rounds"])) == (0, 2)


# --- kill and failure, in processes of their own ------------------------------------------------------------------

RESUMED = {"members::resunet2d5::train::max_epochs": 3}


def wait_for(path, process):
    while not path.is_file():
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_rounds_continue_and_end_the_same(lists, tmp_path):
    whole = self_train(tmp_path / "whole", lists, "chen2023", rounds=1, **RESUMED)
    killed = tmp_path / "killed"
    killed.mkdir()
    out = killed / "out"
    views = {"members::resunet2d5::views": []}
    words = command(files_of(killed, "chen2023"), values(lists, out, rounds=1, **RESUMED, **views))
    last = out / "round_1/networks/resunet2d5/model/last.pt"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(last, process)
    finally:
        process.kill()
        process.wait()
    assert not (out / "metrics.json").exists()
    time.sleep(1)
    state = last.stat().st_mtime_ns
    self_train(killed, lists, "chen2023", rounds=1, **RESUMED)
    assert state < last.stat().st_mtime_ns or load(last)["epoch"] == 3
    for number in (0, 1):
        for name in ("model.pt", "last.pt"):
            path = f"round_{number}/networks/resunet2d5/model/{name}"
            first, second = load(whole / path), load(out / path)
            assert same_weights(first.get("network", first), second.get("network", second)), path
        first, second = (read_json(folder / f"round_{number}/metrics.json") for folder in (whole, out))
        assert {**first, "seconds": 0} == {**second, "seconds": 0}
    path = "round_1/pseudo_labels/case_10_Label.nii.gz"
    assert np.array_equal(nib.load(whole / path).dataobj, nib.load(out / path).dataobj)


@pytest.mark.slow
def test_failing_step_is_one_line_that_names_its_log(lists, tmp_path):
    broken = {"members::resunet2d5::train::spacing": "none"}
    words = command(files_of(tmp_path, "chen2023"), values(lists, tmp_path / "out", **broken))
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=300)
    log = tmp_path / "out/round_0/logs/training_resunet2d5.log"
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: round 0, training of resunet2d5 failed with exit code")
    assert str(log) in result.stderr.splitlines()[-1]
    assert log.is_file()


@pytest.mark.slow
def test_runs_are_nested_in_mlflow(lists, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    store = tmp_path / "out" / "mlruns.db"
    overrides = {"rounds": 0, "tracking": str(CONFIGS / "mlflow.json"), "members::resunet2d5::views": []}
    words = command(files_of(tmp_path, "chen2023"), values(lists, tmp_path / "out", **overrides))
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    with sqlite3.connect(store) as connection:
        names = dict(connection.execute("select run_uuid, name from runs"))
        parents = dict(connection.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        states = {state for (state,) in connection.execute("select status from runs")}
    tree = {name: names.get(parents.get(run)) for run, name in names.items()}
    assert tree == {"self-training": None, "round 0": "self-training", "round 0 resunet2d5": "round 0"}
    assert states == {"FINISHED"}


@pytest.mark.slow
def test_sigterm_ends_all_runs_as_failed(lists, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    out = tmp_path / "out"
    overrides = {"tracking": str(CONFIGS / "mlflow.json"), "members::resunet2d5::train::max_epochs": 500}
    words = command(files_of(tmp_path, "chen2023"), values(lists, out, **overrides))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(out / "round_0/networks/resunet2d5/model/last.pt", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    with sqlite3.connect(out / "mlruns.db") as connection:
        states = dict(connection.execute("select name, status from runs"))
    assert states == dict.fromkeys(["self-training", "round 0", "round 0 resunet2d5"], "FAILED")


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"translated": None}, "no translated scans"),
        ({"teachers": {"unknown": ["a.pt"]}}, "which is no member"),
        ({"teachers": {"resunet2d5": ["a.pt"]}}, "a.pt is missing"),
        ({"student_weights": "old"}, "give anew or previous"),
        ({"members::resunet2d5::overlays": ["methods/chen"]}, "methods/chen.yaml is missing"),
        ({"members::resunet2d5::fold": 1}, "unknown entry 'fold'"),
        ({"ensemble": "$crossmoda_rounds.BestFolds({'resunet': 2})"}, "folds of 'resunet', which is no member"),
        ({"early_stop::criterion": "dice"}, "no criterion 'dice'"),
        ({"fusion": "mena"}, "no fusion rule 'mena'"),
    ],
)
def test_faults_are_one_line(change, message, lists, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        self_train(tmp_path, lists, "chen2023", **change)
    assert left.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


# --- the ensemble -------------------------------------------------------------------------------------------------


def test_inference_and_evaluation_of_the_rounds(lists, tmp_path):
    out = self_train(tmp_path, lists, "li2021")
    scan = tmp_path / "in" / "patient_hrT2.nii.gz"
    scan.parent.mkdir()
    write_case(scan.parent, "patient", 3)
    scan.parent.joinpath("patient_Label.nii.gz").unlink()
    predictions = tmp_path / "predictions"
    overrides = {"ensemble": str(out / "ensemble.json"), "input": str(scan), "output_dir": str(predictions)}
    run_in_process(config_files("inference"), {**overrides, "progress": False})
    raw, found = nib.load(scan), nib.load(predictions / "patient_seg.nii.gz")
    assert (found.shape, found.get_data_dtype()) == (raw.shape, np.uint8)
    assert np.array_equal(found.affine, raw.affine)
    assert {path.name for path in predictions.iterdir()} == {"patient_seg.nii.gz", "patient_seg.json", "logs"}
    report = read_json(predictions / "patient_seg.json")
    assert (report["case"], report["members"], report["fusion"]) == ("patient", len(report["fused"]), "union")

    overrides = {"rounds_dir": str(out), "data_list": str(lists["oracle"]), "progress": False}
    run_in_process(config_files("evaluate"), overrides)
    rows = read_metrics(out / "evaluation/round_1/metrics.csv")
    assert [row["case"] for row in rows] == ["case_10", "case_11"]
    judged = read_json(out / "evaluation/rounds.json")["rounds"]
    assert [item["round"] for item in judged] == [0, 1]
    assert judged[1]["pseudo_labels"]["kept"]["cases"] == 4
    assert "| 1 " in (out / "evaluation/rounds.md").read_text()


def test_the_first_network_compares_scans_with_the_training_s(lists, tmp_path, request):
    out = self_train(tmp_path, lists, "li2021", rounds=0)
    ensemble = {"ensemble": str(out / "ensemble.json"), "progress": False}
    scans = tmp_path / "scans"
    scans.mkdir()
    items = [write_case(scans, f"case_{n}", n) for n in range(5)]
    (scans / "datalist.json").write_text(json.dumps({"target_training": items, "target_validation": items[:1]}))
    data = {"data_list": str(scans / "datalist.json")}
    request.node.started.clear()
    run_in_process(config_files("inference", "reference"), {**ensemble, **data, "output_dir": str(out / "reference")})
    ((_, files, overrides),) = request.node.started  # one network, once
    assert (overrides["section"], overrides["save_probabilities"]) == ("target_training", False)
    assert read_json(out / "reference.json")["cases"] == 5
    assert {"spacing_x_mm", "noise", "VS_ml"} <= read_json(out / "reference.json")["features"].keys()

    run_in_process(config_files("inference"), {**ensemble, **data, "output_dir": str(tmp_path / "usual")})
    assert [overrides.get("reference") for _, _, overrides in request.node.started[1:]] == [
        str(out / "reference.json"),
        None,
        None,
        None,
    ]
    assert request.node.started[1][1] == files  # what is compared is made in the same way
    assert read_json(tmp_path / "usual" / "case_0_seg.json")["unlike_training"] == {}

    out = out.rename(tmp_path / "moved")
    thick = nib.load(scans / "case_0_hrT2.nii.gz")
    affine = thick.affine @ np.diag([1, 1, 2, 1])
    nib.save(nib.Nifti1Image(np.asarray(thick.dataobj), affine), tmp_path / "thick_hrT2.nii.gz")
    moved = {**ensemble, "ensemble": str(out / "ensemble.json"), "input": str(tmp_path / "thick_hrT2.nii.gz")}
    run_in_process(config_files("inference"), {**moved, "output_dir": str(tmp_path / "unusual")})
    report = read_json(tmp_path / "unusual" / "thick_seg.json")
    assert report["unlike_training"]["spacing_z_mm"] == pytest.approx(20, abs=0.1)  # spreads of 5 %
    assert "unlike_training" in report["flags"]


def test_weights_of_students_differ_from_their_teachers(lists, tmp_path):
    out = self_train(tmp_path, lists, "chen2023", rounds=1)
    weights = [load(out / f"round_{n}/networks/resunet2d5/model/model.pt") for n in (0, 1)]
    assert not same_weights(*weights)
    assert all(torch.isfinite(value).all() for value in weights[1].values())
