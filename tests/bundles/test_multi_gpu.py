"""Each bundle's training in two processes on the CPU: equal weights on both, one MLflow run, one set of results."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import segmentation3d_bundle
import segmentation_bundle
import torch
import translation_bundle
from segmentation_bundle import ROOT, SHAPE, write_case

from crossmoda.engines import read_history

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def train(name: str, overlays: tuple[str, ...], values: dict, output: Path) -> None:
    """Two processes; each writes the network that it has at the end to `<output>/rank_<rank>.pt`."""
    configs = ROOT / "bundles" / name / "configs"
    files = [str(configs / f"{item}.yaml") for item in ("train", *overlays, "multi_gpu_train")]
    last = f"$torch.save(@network_def.state_dict(), {str(output)!r} + '/rank_' + os.environ['RANK'] + '.pt')"
    values = {
        **values,
        "finalize": [last, "$dist.destroy_process_group()"],
        "tracking": str(configs / "mlflow.json"),
        "tracking_uri": f"sqlite:///{output}/mlruns.db",
        "experiment_name": "two",
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


def check(output: Path, models: Path, epochs: int) -> list[tuple[str]]:
    """Both ranks learned the same, once; gives the states of the MLflow runs."""
    first, second = (torch.load(output / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    # Running means of batch norm are each process's own; what is learned is the same.
    learned = [key for key in first if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert learned
    assert all(torch.equal(first[key], second[key]) for key in learned)
    assert (models / "model.pt").is_file()
    assert (models / "last.pt").is_file()
    (history,) = output.rglob("history.csv")
    assert [row["epoch"] for row in read_history(history)] == list(range(1, epochs + 1))
    with sqlite3.connect(output / "mlruns.db") as store:
        return store.execute("select status from runs where lifecycle_stage = 'active'").fetchall()


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
    assert check(tmp_path, tmp_path / "model", epochs=2) == [("FINISHED",)]


@pytest.mark.slow
def test_translation(tmp_path):
    (tmp_path / "data").mkdir()
    data_list = translation_bundle.write_data(tmp_path / "data")
    values = {**translation_bundle.TINY, **translation_bundle.paths(data_list, tmp_path)}
    train("translation", ("methods/cyclegan", "phantom"), values, tmp_path)
    assert check(tmp_path, tmp_path / "models", epochs=2) == [("FINISHED",)]


def test_every_bundle_that_trains_has_the_overlay():
    for root in (ROOT / "bundles").iterdir():
        if (root / "configs" / "train.yaml").is_file():
            assert (root / "configs" / "multi_gpu_train.yaml").is_file(), root
