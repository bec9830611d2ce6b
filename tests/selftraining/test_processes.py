"""Trainings of self-training in several processes: config files, command, and a student in two processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from segmentation_bundle import ROOT, train_overrides, write_case, write_dataset

from crossmoda.engines import read_history
from crossmoda.errors import InputError
from crossmoda.selftraining import steps
from crossmoda.selftraining.members import Member, Network, training


def test_several_processes_take_the_bundles_own_overlay(tmp_path):
    network = Network(Member("unet", "segmentation-2.5d", ["methods/li2021"]))
    one, several = (
        [Path(file).name for file in training(network, 0, "list.json", tmp_path, {}, processes=count)[0]]
        for count in (1, 2)
    )
    assert one == ["train.yaml", "li2021.yaml", "student.yaml"]
    assert several == ["train.yaml", "li2021.yaml", "multi_gpu_train.yaml", "student.yaml"]


@pytest.mark.parametrize("processes", [1, 3])
def test_command(processes, tmp_path, monkeypatch):
    started = []

    def popen(words, **kwargs):
        started.append(words)
        raise InputError("not started")

    monkeypatch.setattr(steps.subprocess, "Popen", popen)
    with pytest.raises(InputError, match="not started"):
        steps.run_bundle("step", ["a.yaml"], {"seed": 1}, tmp_path / "log", processes=processes)
    ((python, *words),) = started
    assert python == sys.executable
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"] if processes == 3 else []
    assert words == [*launcher, "-m", "monai.bundle", "run", "--config_file", "['a.yaml']", "--seed", "1"]


@pytest.mark.slow
def test_mean_teacher_in_two_processes(tmp_path, monkeypatch):
    """model.pt fits a single process' network, and both processes have learned the same."""
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    data_list = write_dataset(tmp_path / "data")
    content = json.loads(data_list.read_text())
    for number in (20, 21, 22):
        item = write_case(data_list.parent, f"case_{number}", number)
        content["source_training"].append({**item, "pseudo": True})
    data_list.write_text(json.dumps(content))

    network = Network(Member("unet", "segmentation-2.5d"))
    files, _ = training(network, 1, data_list, tmp_path, {}, processes=2)
    last = f"$torch.save(@network_def.state_dict(), {str(tmp_path)!r} + '/rank_' + os.environ['RANK'] + '.pt')"
    values = train_overrides(data_list, tmp_path, max_epochs=2, val_fraction=0.5, batch_size=1, ema_momentum=0.5)
    values["finalize"] = [last, "$dist.destroy_process_group()"]
    steps.run_bundle("student", files, values, tmp_path / "log.txt", processes=2)

    first, second, best = (
        torch.load(tmp_path / name, weights_only=True) for name in ("rank_0.pt", "rank_1.pt", "model/model.pt")
    )
    learned = [key for key in first if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(first[key], second[key]) for key in learned)
    assert best.keys() == first.keys()
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2]


def test_overlay_counts_the_gpus(monkeypatch):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    configs = ROOT / "bundles/self-training/configs"
    parser.read_config([str(configs / "train.yaml"), str(configs / "multi_gpu_train.yaml")])
    for gpus, processes in ((0, 1), (4, 4)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        parser.parse(reset=True)
        assert parser.get_parsed_content("train_processes") == processes
