"""Trainings that a user tracks on an MLflow server: all of a run is there, and a failed one stays alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import translation_bundle
from mlflow import MlflowClient
from segmentation_bundle import CONFIGS, command, train_overrides, write_dataset

from crossmoda.engines import read_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def run(words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "CROSSMODA"))}
    return subprocess.run(words, capture_output=True, encoding="utf-8", timeout=300, env=environment)


def runs(client, experiment):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], order_by=["start_time"])


def curve(client, run, metric):
    points = client.get_metric_history(run.info.run_id, metric)
    return {point.step: point.value for point in points}


def in_history(folder, name):
    rows = read_history(folder / "history.csv")
    return pytest.approx({row["epoch"]: row[name] for row in rows}, rel=1e-5)  # six digits


def test_own_settings(mlflow_server, data_list, tmp_path):
    tracking = {"tracking": CONFIGS / "mlflow.json", "tracking_uri": mlflow_server, "experiment_name": "own settings"}
    values = train_overrides(data_list, tmp_path / "out", max_epochs=2, run_name="first", **tracking)
    done = run(command(["train"], values))
    assert done.returncode == 0, done.stderr[-3000:]
    client = MlflowClient(mlflow_server)
    (tracked,) = runs(client, "own settings")
    assert (tracked.info.run_name, tracked.info.status) == ("first", "FINISHED")
    for metric in ("loss", "val_mean_dice", "val_dice_VS", "val_dice_cochlea"):
        # One batch an epoch: iterations are epochs.
        assert curve(client, tracked, metric) == in_history(tmp_path / "out", metric), metric
    params = {"max_epochs": "2", "learning_rate": "0.0001", "spacing": "[0.8, 0.8, 1.7]", "seed": "0"}
    assert params.items() <= tracked.data.params.items()
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    tags = {"bundle": metadata["name"], "bundle_version": metadata["version"], "version.torch": torch.__version__}
    assert tags.items() <= tracked.data.tags.items()
    assert tracked.data.tags["git_revision"]
    (config,) = client.list_artifacts(tracked.info.run_id)
    kept = json.loads(Path(client.download_artifacts(tracked.info.run_id, config.path, str(tmp_path))).read_text())
    assert (kept["max_epochs"], kept["spacing"]) == (2, [0.8, 0.8, 1.7])


def test_plain_mlflow(mlflow_server, data_list, tmp_path):
    tracking = {"tracking": "mlflow", "tracking_uri": mlflow_server, "experiment_name": "plain"}
    values = train_overrides(data_list, tmp_path / "out", max_epochs=2, run_name="first", **tracking)
    done = run(command(["train"], values))
    assert done.returncode == 0, done.stderr[-3000:]
    client = MlflowClient(mlflow_server)
    (tracked,) = runs(client, "plain")
    assert (tracked.info.run_name, tracked.info.status) == ("first", "FINISHED")
    for metric, name in (("train_loss", "loss"), ("val_mean_dice", "val_mean_dice")):
        assert curve(client, tracked, metric) == in_history(tmp_path / "out", name), metric
    assert tracked.data.params == {"max_epochs": "2", "epoch_length": "1"}


def test_a_failed_run_stays_alone(mlflow_server, tmp_path):
    """A learning rate that makes the loss infinite; the next run, of the same name, is complete with its pictures."""
    (tmp_path / "data").mkdir()
    values = {
        **translation_bundle.TINY,
        **translation_bundle.paths(translation_bundle.write_data(tmp_path / "data"), tmp_path),
        "tracking": translation_bundle.CONFIGS / "mlflow.json",
        "tracking_uri": mlflow_server,
        "experiment_name": "failed",
        "run_name": "translator",
    }
    words = [sys.executable, "-m", "monai.bundle", "run"]
    words += ["--config_file", repr(translation_bundle.files("train", "cyclegan"))]
    words += [word for key, value in values.items() for word in (f"--{key}", str(value))]
    done = run([*words, "--learning_rate", "1e30"])
    assert done.returncode == 1
    assert "FloatingPointError: loss is not finite in iteration 2" in done.stderr
    client = MlflowClient(mlflow_server)
    assert [tracked.info.status for tracked in runs(client, "failed")] == ["FAILED"]
    done = run(words)
    assert done.returncode == 0, done.stderr[-3000:]
    failed, fresh = runs(client, "failed")
    assert (failed.info.status, fresh.info.status) == ("FAILED", "FINISHED")
    assert failed.info.run_name == fresh.info.run_name == "translator"
    assert (failed.data.params["learning_rate"], fresh.data.params["learning_rate"]) == ("1e+30", "0.0005")
    assert not failed.data.metrics
    assert curve(client, fresh, "selection_score") == in_history(tmp_path / "out", "val_selection_score")
    pictures = [entry.path for entry in client.list_artifacts(fresh.info.run_id, "pictures")]
    assert pictures == ["pictures/epoch_0001.png", "pictures/epoch_0002.png"]
