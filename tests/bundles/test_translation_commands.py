"""Trainings from the shell, in two processes, and with other layouts."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from translation_bundle import CONFIGS, TINY, files, train, write_data

from crossmoda.engines import read_history


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Small source and target scans."""
    return write_data(tmp_path_factory.mktemp("data"))


def test_layout_and_compilation_give_the_same_checkpoints(data_list, tmp_path, monkeypatch):
    # As ever but for the generated code, which takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    options = {"max_epochs": 1, "amp": False}
    train("cyclegan", data_list, tmp_path / "plain", **options)
    train("cyclegan", data_list, tmp_path / "fast", channels_last=True, compile=True, **options)
    plain, fast = (torch.load(tmp_path / n / "models" / "model.pt", weights_only=True) for n in ("plain", "fast"))
    assert list(plain) == list(fast)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, atol=2e-3, rtol=0)  # four steps of 5e-4 at most
    train("cyclegan", data_list, tmp_path / "fast", **{**options, "max_epochs": 2})  # goes on without them


def test_run_from_the_shell_with_mlflow(data_list, tmp_path):
    options = {
        **TINY,
        "data_list": data_list,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files("train", "cyclegan"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [*command, *arguments, "--tracking", "mlflow"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "models" / "model.pt").is_file()
    assert (tmp_path / "out" / "mlruns.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cyclegan_segmenter", "msf_net", "fastcut"])
def test_two_processes_train_and_write_once(method, data_list, tmp_path):
    config_file = [*files("train", method), str(CONFIGS / "multi_gpu_train.yaml")]
    options = {
        **TINY,
        "data_list": data_list,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
    }
    options.pop("device")
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "monai.bundle", "run", "--config_file", str(config_file), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(f.name for f in (tmp_path / "models").iterdir()) == ["last.pt", "model.pt"]
    assert len(read_history(tmp_path / "out" / "history.csv")) == 2
