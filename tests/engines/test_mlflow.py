import json
import os
import signal
import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from PIL import Image

from crossmoda.engines import MLFlowRun, end_parent_run, register_model, start_parent_run
from crossmoda.engines.mlflow import executed_config, flatten
from crossmoda.engines.model_registry import active_store
from crossmoda.errors import InputError
from crossmoda.networks import UNet2d5

CONFIG = {
    "seed": 3,
    "channels": [16, 32],
    "device": "$torch.device('cpu')",
    "train": {"trainer": {"_target_": "Trainer", "max_epochs": 2, "network": "@network"}, "handlers": [{"a": 1}]},
    "_meta_": {"name": "translation", "version": "0.1.0"},
}


@pytest.fixture(scope="module", params=["sqlite", "server"])
def uri(request, tmp_path_factory):
    """One store for all tests: to start one takes seconds."""
    if request.param == "server":
        return request.getfixturevalue("mlflow_server")
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlruns.db"


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "CROSSMODA_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def trainer_with(step):
    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(score=0.5))
    return trainer


def one_step(engine, batch):
    return [{"loss": torch.tensor(float(batch)), "cycle": 2.0, "pred": torch.zeros(2, 2)}] * 2


def failing_step(engine, batch):
    if engine.state.iteration == 3:
        raise RuntimeError("out of memory")
    return one_step(engine, batch)


def runs(uri, experiment):
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id], order_by=["start_time"])


def test_finished_run_holds_all(uri, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    trainer, validator = trainer_with(one_step), Engine(lambda engine, batch: None)
    validator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_dice=0.25))

    def validate_and_draw(engine):
        validator.run([0], max_epochs=1)
        Image.new("L", (4, 4)).save(tmp_path / f"epoch_{engine.state.epoch}.png")

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate_and_draw)
    handler = MLFlowRun(
        uri,
        "whole",
        config_file=str(tmp_path / "config.json"),
        params={"data": {"cases": 8}},
        tags={"stage": "train"},
        validator=validator,
        pictures_dir=tmp_path,
        iteration_interval=2,
    )
    handler.attach(trainer)
    trainer.run([1, 2, 3], max_epochs=2)
    (run,) = runs(uri, "whole")
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("whole_")
    client = MlflowClient(uri)
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    assert curve == [(2, 2), (3, 3), (4, 1), (6, 3)]  # the last of each epoch too
    assert {point.step for point in client.get_metric_history(run.info.run_id, "val_dice")} == {1, 2}
    assert run.data.metrics == {"loss": 3, "cycle": 2, "score": 0.5, "val_dice": 0.25}
    expected = {"seed": "3", "channels": "[16, 32]", "train.trainer.max_epochs": "2", "data.cases": "8"}
    assert run.data.params == expected | {"max_epochs": "2", "epoch_length": "3"}
    assert run.data.tags["bundle"] == "translation"
    assert run.data.tags["bundle_version"] == "0.1.0"
    assert run.data.tags["stage"] == "train"
    assert run.data.tags["git_revision"]
    assert run.data.tags["version.torch"] == torch.__version__
    assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["config.json", "pictures"]
    pictures = [entry.path for entry in client.list_artifacts(run.info.run_id, "pictures")]
    assert pictures == ["pictures/epoch_1.png", "pictures/epoch_2.png"]


def test_exception_fails_the_run_and_the_next_one_is_fresh(uri):
    for step in (failing_step, one_step):
        trainer = trainer_with(step)
        MLFlowRun(uri, "crash", run_name="same name", iteration_interval=1).attach(trainer)
        if step is failing_step:
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.run([1, 2, 3, 4], max_epochs=1)
        else:
            trainer.run([5], max_epochs=1)
    failed, fresh = runs(uri, "crash")
    assert (failed.info.status, fresh.info.status) == ("FAILED", "FINISHED")
    assert failed.info.run_name == fresh.info.run_name == "same name"
    client = MlflowClient(uri)
    assert [point.value for point in client.get_metric_history(failed.info.run_id, "loss")] == [1, 2]
    assert [point.value for point in client.get_metric_history(fresh.info.run_id, "loss")] == [5]


def test_running_run_is_not_adopted(uri):
    first, second = trainer_with(one_step), trainer_with(one_step)
    MLFlowRun(uri, "side by side").attach(first)
    MLFlowRun(uri, "side by side").attach(second)
    first.add_event_handler(Events.EPOCH_STARTED, lambda engine: second.run([7], max_epochs=1))
    first.run([1], max_epochs=1)
    assert [run.info.status for run in runs(uri, "side by side")] == ["FINISHED"] * 2


def test_same_handler_can_run_twice(uri):
    trainer = trainer_with(one_step)
    MLFlowRun(uri, "twice").attach(trainer)
    trainer.run([1], max_epochs=1)
    trainer.run([1], max_epochs=1)
    assert [run.info.status for run in runs(uri, "twice")] == ["FINISHED"] * 2


def test_exception_that_another_handler_raises_first(uri, tmp_path):
    """As StatsHandler does; the end of the process then marks the run."""
    script = f"""
from ignite.engine import Engine
from monai.handlers import StatsHandler
from crossmoda.engines import MLFlowRun
trainer = Engine(lambda engine, batch: 1 / 0)
StatsHandler(name="train").attach(trainer)
MLFlowRun({uri!r}, "exit").attach(trainer)
trainer.run([1], max_epochs=1)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    (run,) = runs(uri, "exit")
    assert run.info.status == "FAILED"


def test_sigterm_fails_the_run(uri):
    """As a cluster sends it at a time limit."""
    script = f"""
import os, signal, time
from ignite.engine import Engine
from crossmoda.engines import MLFlowRun
trainer = Engine(lambda engine, batch: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)))
MLFlowRun({uri!r}, "ended").attach(trainer)
trainer.run([1], max_epochs=1)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (run,) = runs(uri, "ended")
    assert run.info.status == "FAILED"


def test_nested_runs(uri, monkeypatch):
    parent = start_parent_run(uri, "nested", "pipeline")
    monkeypatch.setenv("CROSSMODA_PARENT_RUN_ID", parent)
    trainer = trainer_with(one_step)
    MLFlowRun(uri, "nested", run_name="stage").attach(trainer)
    trainer.run([1], max_epochs=1)
    end_parent_run(uri, parent)
    by_name = {run.info.run_name: run for run in runs(uri, "nested")}
    assert by_name["stage"].data.tags["mlflow.parentRunId"] == parent
    assert by_name["pipeline"].info.status == "FINISHED"


def test_what_was_killed_does_not_run_for_ever(uri):
    pipeline = start_parent_run(uri, "killed", "pipeline")
    rounds = start_parent_run(uri, "killed", "rounds", pipeline)
    start_parent_run(uri, "killed", "training", rounds)
    end_parent_run(uri, start_parent_run(uri, "killed", "rounds again", pipeline))
    end_parent_run(uri, pipeline, failed=True)
    states = {run.info.run_name: run.info.status for run in runs(uri, "killed")}
    assert states == {"pipeline": "FAILED", "rounds": "RUNNING", "training": "RUNNING", "rounds again": "FINISHED"}
    end_parent_run(uri, pipeline)  # taken up again, and finished
    states = {run.info.run_name: run.info.status for run in runs(uri, "killed")}
    assert states == {"pipeline": "FINISHED", "rounds": "KILLED", "training": "KILLED", "rounds again": "FINISHED"}


def test_the_network_is_registered_with_its_signature(uri, tmp_path):
    network, window = UNet2d5(in_channels=1, out_channels=3, channels=(4, 4, 4, 4, 4)), (1, 1, 32, 32, 8)
    weights = {name: torch.rand_like(value.float()).to(value.dtype) for name, value in network.state_dict().items()}
    torch.save(weights, tmp_path / "model.pt")
    trainer = trainer_with(one_step)
    name = f"vs-{uri.split(':')[0]}"
    MLFlowRun(
        uri, "registry", registered_model=name, network=network, weights=tmp_path / "model.pt", window=window
    ).attach(trainer)
    trainer.run([1], max_epochs=1)
    (run,) = runs(uri, "registry")
    assert run.info.status == "FINISHED"
    client = MlflowClient(uri)
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert (str(version.version), version.run_id) == ("1", run.info.run_id)
    assert "MLFLOW_TRACKING_URI" not in os.environ  # later processes would track there
    with active_store(uri):
        signature = mlflow.models.get_model_info(f"models:/{name}/1").signature
        loaded = mlflow.pytorch.load_model(f"models:/{name}/1")
    assert signature.inputs.inputs[0].shape[1:] == window[1:]
    assert signature.outputs.inputs[0].shape[1:] == (3, 32, 32, 8)
    image = torch.from_numpy(np.random.RandomState(0).rand(*window).astype(np.float32))
    network.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network.eval()(image))


def test_weights_of_another_network_are_not_registered(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another network"):
        register_model("sqlite://", "none", UNet2d5(1, 3, (4, 4, 4, 4, 4)), tmp_path / "model.pt", (1, 1, 8, 8, 8), "a")


def test_path_of_the_executed_config():
    assert str(executed_config("/x y + '/config_1.json'")) == "/x y/config_1.json"
    assert str(executed_config("/x/config_1.json")) == "/x/config_1.json"


def test_flatten_keeps_plain_values():
    assert dict(flatten(CONFIG)) == {"seed": 3, "channels": [16, 32], "train.trainer.max_epochs": 2}
    assert dict(flatten({"a": {"b": "@c", "_d": 1}}, keep_all=True)) == {"a.b": "@c", "a._d": 1}
