"""Each bundle's training in two processes on the CPU: equal weights on both, one MLflow run, one set of results."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import koos_bundle
import pytest
import segmentation3d_bundle
import segmentation_bundle
import self_training_bundle
import torch
import translation_bundle
from segmentation_bundle import ROOT, SHAPE, write_case

from crossmoda.engines import read_history
from crossmoda.networks import UNet2d5
from crossmoda.selftraining import rounds, steps

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def saved_weights(output: Path) -> dict[str, str]:
    """Overrides: each process writes its network to `<output>/start_<rank>.pt` and, once trained, `end_<rank>.pt`."""
    save = f"torch.save(@network_def.state_dict(), {str(output)!r} + '/{{}}_' + os.environ['RANK'] + '.pt')"
    return {"run::0": f"$({save.format('start')}, @train::trainer.run(), {save.format('end')})"}


def train(name: str, overlays: tuple[str, ...], values: dict, output: Path, workflow: str = "train") -> None:
    """A bundle's training in two processes, with `saved_weights` and tracking."""
    configs = ROOT / "bundles" / name / "configs"
    files = [str(configs / f"{item}.yaml") for item in (workflow, *overlays, "multi_gpu_train")]
    values = {
        **values,
        **saved_weights(output),
        "tracking": str(configs / "mlflow.json"),
        "tracking_uri": f"sqlite:///{output}/mlruns.db",
        "experiment_name": "two",
        "run_name": "only",
    }
    values.pop("device", None)
    words = [*TORCHRUN, "-m", "monai.bundle", "run", "--config_file", repr(files)]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        words, capture_output=True, encoding="utf-8", timeout=240, env=environment, cwd=output, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check(output: Path, models: Path, epochs: int) -> list[tuple[str, str]]:
    """Both processes learned the same, once; gives names and states of the MLflow runs."""
    start, first, second, best = (
        torch.load(path, weights_only=True)
        for path in (output / "start_0.pt", output / "end_0.pt", output / "end_1.pt", models / "model.pt")
    )
    # Running means of batch norm are each process's own.
    learned = [key for key in first if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert any(not torch.equal(start[key], first[key]) for key in learned)
    assert all(torch.equal(first[key], second[key]) for key in learned)
    assert best.keys() == first.keys()  # as a single process saves it
    assert (models / "last.pt").is_file()
    (history,) = output.rglob("history.csv")
    assert [row["epoch"] for row in read_history(history)] == list(range(1, epochs + 1))
    with sqlite3.connect(output / "mlruns.db") as store:
        return store.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall()


def uneven_scans(folder: Path) -> Path:
    """Four scans of different sizes: their validation has a different number of windows in each process."""
    folder.mkdir()
    shapes = [SHAPE, (88, 40, 14), (44, 80, 14), (44, 40, 28)]
    items = [write_case(folder, f"case_{n}", n, shape=shape) for n, shape in enumerate(shapes)]
    path = folder / "datalist.json"
    path.write_text(json.dumps({"source_training": items}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [segmentation_bundle, segmentation3d_bundle], ids=["2.5d", "3d"])
def test_segmentation(bundle, tmp_path):
    data_list = uneven_scans(tmp_path / "data")
    # Three validation cases for two processes.
    values = {"max_epochs": 2, "val_fraction": 0.75, "batch_size": 1, "val_interval": 1}
    values = bundle.train_overrides(data_list, tmp_path, **values)
    train(bundle.CONFIGS.parent.name, (), values, tmp_path)
    assert check(tmp_path, tmp_path / "model", epochs=2) == [("only", "FINISHED")]


@pytest.mark.slow
def test_translation(tmp_path):
    (tmp_path / "data").mkdir()
    data_list = translation_bundle.write_data(tmp_path / "data")
    values = {**translation_bundle.TINY, **translation_bundle.paths(data_list, tmp_path)}
    train("translation", ("methods/cyclegan", "phantom"), values, tmp_path)
    assert check(tmp_path, tmp_path / "models", epochs=2) == [("only", "FINISHED")]


@pytest.mark.slow
def test_koos_classifier(tmp_path):
    # Two cases a grade in the fold: each process has its own in a batch.
    data, stages = koos_bundle.write_dataset(tmp_path / "data", per_grade=4), {}
    for stage in ("pretrain", "finetune"):
        stages[stage] = tmp_path / stage
        stages[stage].mkdir()
        values = koos_bundle.train_overrides(data, stages[stage], learning_rate=0.01)
        if stage == "finetune":
            values["initial_weights"] = str(stages["pretrain"] / "model/model.pt")
        train("koos-classifier", (), values, stages[stage], workflow=stage)
        assert check(stages[stage], stages[stage] / "model", epochs=2) == [("only", "FINISHED")]


@pytest.mark.slow
def test_student_of_self_training(tmp_path, monkeypatch):
    """The rounds are one process; the student's training is two, and one run in theirs."""
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    output, teacher = tmp_path / "out", tmp_path / "teacher.pt"

    def step(name, files, values, log, environment=None, processes=1):
        if processes == 1:
            self_training_bundle.run_in_process(files, values)
        else:
            steps.run_bundle(name, files, {**values, **saved_weights(output)}, log, environment, processes)

    monkeypatch.setattr(rounds, "run_bundle", step)
    torch.save(UNet2d5(channels=[4] * 5).state_dict(), teacher)
    files = self_training_bundle.tiny(tmp_path, views=[], selection_rules=[])
    values = {"train_processes": 2, "teachers": {"unet2d5": [str(teacher)]}}
    values |= {"members::unet2d5::train::max_epochs": 2, "members::unet2d5::train::val_fraction": 0.5}
    values |= {"tracking": str(self_training_bundle.CONFIGS / "mlflow.json")}
    lists = self_training_bundle.write_data(tmp_path / "scans")
    self_training_bundle.run_in_process(files, self_training_bundle.values(lists, output, **values))
    runs = check(output, output / "round_1/networks/unet2d5/model", epochs=2)
    assert sorted(runs) == [(name, "FINISHED") for name in ("round 0", "round 1", "round 1 unet2d5", "self-training")]


def test_every_bundle_that_trains_has_the_overlay():
    for root in (ROOT / "bundles").iterdir():
        if (root / "configs" / "train.yaml").is_file():
            assert (root / "configs" / "multi_gpu_train.yaml").is_file(), root
