"""The demo's pipeline with tiny numbers: runs through, and a killed run ends as one that was left alone."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PHANTOM = {"preset": "demo", "sites": "ldn,etz", "source": 4, "target": 4, "validation": 4}


def start(folder: Path) -> subprocess.Popen:
    """Start the demo recipe, cut to one translator and two systems of a few steps, in `folder`."""
    recipe = yaml.safe_load((ROOT / "scripts" / "recipes" / "demo.yaml").read_text())
    recipe |= {"output_dir": str(folder / "run"), "phantom": PHANTOM}
    recipe["translators"] = {"cyclegan_segmenter": recipe["translators"]["cyclegan_segmenter"]}
    recipe["translators"]["cyclegan_segmenter"]["train"] = {"max_epochs": 2, "epoch_slices": 8}
    recipe["systems"] = {name: recipe["systems"][name] for name in ("source-only", "adapted", "oracle")}
    for system in recipe["systems"].values():
        system["train"] = {"max_epochs": 3, "val_interval": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "scripts" / "Snakefile")),
        *("--configfile", str(folder / "recipe.yaml"), "--cores", "2", "--nolock", "--rerun-incomplete"),
    ]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(timeout=1500) == 0, (folder / "log").read_text(errors="replace")[-4000:]


def kill_when(process: subprocess.Popen, path: Path) -> None:
    """Kill the pipeline and all its jobs at once, as a power cut would, as soon as `path` exists."""
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder), folder)
    return folder / "run"


def test_the_run_judges_every_system_against_its_bounds(whole):
    results = json.loads((whole / "report" / "results.json").read_text(encoding="utf-8"))
    for system in ("source-only", "adapted", "oracle"):
        assert system in json.dumps(results)
        with (whole / "segmentation" / system / "predictions" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == PHANTOM["validation"]
        assert {row["site"] for row in rows} == {"ldn", "etz"}
        assert all(0 <= float(row["dice_VS"]) <= 1 for row in rows)
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    assert "oracle" in page
    assert "data:image/png;base64" in page


def test_no_training_but_the_oracle_s_was_given_the_truth(whole):
    configs = [*whole.glob("translation/*/config_*.json"), *whole.glob("segmentation/*/config_*.json")]
    assert len(configs) == 4  # written by the tracking: one translator, three systems
    for config in configs:
        given = Path(json.loads(config.read_text())["data_list"]).name
        assert (given == "oracle.json") == (config.parent.name == "oracle"), config
    assert "truth" not in (whole / "datalist.json").read_text()


def test_killed_in_a_training_and_started_again_it_ends_the_same(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    # The phantom has tests of its own; take it over.
    shutil.copytree(whole / "data", run / "data")
    shutil.copy(whole / "data.ready", run / "data.ready")
    kill_when(start(tmp_path), run / "segmentation" / "source-only" / "model" / "last.pt")
    assert not (run / "segmentation" / "source-only" / "trained").exists()
    finish(start(tmp_path), tmp_path)
    for system in ("source-only", "adapted", "oracle"):
        metrics = Path("segmentation") / system / "predictions" / "metrics.csv"
        assert (run / metrics).read_text() == (whole / metrics).read_text(), system
