"""scripts/bench_translation.py: what it trains is what train.yaml trains, and its rows hold what they say."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_translation.py"


@pytest.fixture(scope="module")
def bench() -> dict:
    return runpy.run_path(str(SCRIPT))


def job(bench, method, **options):
    defaults = {"size": 32, "amp": False, "channels_last": True, "compiled": False, "steps": 2, "warmup": 1}
    return bench["Job"](method, **{**defaults, "device": "cpu", "features": 4, **options})


@pytest.mark.parametrize("method", ["cyclegan_segmenter", "site_cyclegan"])
def test_row(bench, method):
    row = bench["measure"](job(bench, method, batch_size=3))
    assert row.batch_size == 3
    assert 0 < row.seconds < 60
    assert 0.05 < row.memory < 20
    parser = bench["read_config"](job(bench, method))
    count = sum(parameter.numel() for parameter in parser.get_parsed_content("objective_def").parameters())
    assert row.parameters == pytest.approx(count / 1e6)
    assert bench["line"](job(bench, method), row).split()[:3] == [method, "32", "3"]


def test_settings_reach_the_config_and_the_rest_is_the_methods(bench):
    parser = bench["read_config"](job(bench, "cyclegan", channels_last=True, features=None))
    assert parser.get_parsed_content("channels_last") is True
    assert parser.get_parsed_content("compile") is False
    assert (parser.get_parsed_content("features"), parser.get_parsed_content("batch_size")) == (64, 2)


def test_batches_hold_what_the_method_needs(bench):
    parser = bench["read_config"](job(bench, "msf_net", size=64))
    batch = bench["random_batch"](parser, 64)
    assert batch["source"].shape == batch["target"].shape == (1, 3, 64, 64)
    assert batch["source_parcellation"].shape == batch["source_label"].shape == (1, 1, 64, 64)
    assert (parser["discriminator_layers"], parser["discriminator_crop"]) == (4, 64)  # 6 need 192 pixels
    batch = bench["random_batch"](bench["read_config"](job(bench, "site_cyclegan")), 32)
    assert batch["target_site"].dtype == torch.int64
    assert "source_parcellation" not in batch


@pytest.mark.slow
def test_command_prints_a_row_a_setting():
    options = "--methods cyclegan --sizes 32 --steps 1 --warmup 1 --features 4 --device cpu --threads 1 --amp on off"
    done = subprocess.run([sys.executable, SCRIPT, *options.split()], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("cyclegan")]
    assert [row[4:7] for row in rows] == [["on", "off", "off"], ["off", "off", "off"]]
