"""The SLURM profile with a stand-in for the cluster's commands: what is submitted, and that a submitted job runs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_run import write_recipe, write_scans
from segmentation_bundle import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROFILE = ROOT / "scripts" / "profiles" / "slurm"

# Runs the jobs of one rule, at once and here; the others fail, as if the cluster had killed them.
SBATCH = """\
import json, os, re, subprocess, sys
from pathlib import Path

folder = Path(os.environ["FAKE_SLURM"])
number = len(list(folder.glob("*.json"))) + 1
wrapped = next(word for word in sys.argv if word.startswith("--wrap=")).removeprefix("--wrap=")
rule = re.search(r"--target-jobs '?(\\w+):", wrapped)[1]
state = "FAILED"
if rule == os.environ["FAKE_SLURM_RUNS"]:
    environment = {**os.environ, "SLURM_JOB_ID": str(number)}
    with (folder / f"{number}.log").open("w") as log:
        done = subprocess.run(["bash", "-c", wrapped], env=environment, stdout=log, stderr=log)
    state = "FAILED" if done.returncode else "COMPLETED"
(folder / f"{number}.json").write_text(json.dumps({"rule": rule, "arguments": sys.argv[1:], "state": state}))
print(number)
"""
SRUN = """\
import os, sys

words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
os.execvp(words[0], words)
"""
STATES = """\
import json, os
from pathlib import Path

for path in Path(os.environ["FAKE_SLURM"]).glob("*.json"):
    print(f"{path.stem}|{json.loads(path.read_text())['state']}")
"""
PRINTS = {"sinfo": "main*", "scontrol": "MinJobAge = 300 sec", "sacctmgr": "lab", "sshare": "lab", "scancel": ""}


def write_commands(folder: Path) -> None:
    """sbatch and its companions."""
    folder.mkdir()
    scripts = {"sbatch": SBATCH, "srun": SRUN, "squeue": STATES, "sacct": STATES}
    scripts |= {name: f"print({text!r})" for name, text in PRINTS.items()}
    for name, text in scripts.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)


def write_profile(folder: Path) -> Path:
    """The profile as it is shipped, but that asks for the states of jobs at once."""
    content = yaml.safe_load((PROFILE / "config.yaml").read_text())
    content |= {"slurm-init-seconds-before-status-checks": 1, "seconds-between-status-checks": 1, "latency-wait": 5}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def start(folder: Path, profile: Path, *options: str) -> subprocess.CompletedProcess:
    data, _ = write_scans(folder / "scans")
    command = [sys.executable, str(ROOT / "scripts" / "run_recipe.py"), str(write_recipe(folder)), "--data", str(data)]
    command += ["--profile", str(profile), "--output_dir", str(folder / "run"), *options]
    commands, state = folder / "bin", folder / "cluster"
    write_commands(commands)
    state.mkdir()
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"FAKE_SLURM": str(state), "FAKE_SLURM_RUNS": "prepare"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)


def test_dry_run_by_the_profile_s_name(tmp_path):
    done = start(tmp_path, Path("slurm"), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train_fold" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def test_jobs_are_submitted_with_what_they_need_and_run(tmp_path):
    done = start(tmp_path, write_profile(tmp_path / "profile"), "--jobs", "1", "--until", "translate")
    text = done.stdout + done.stderr
    jobs = [json.loads(path.read_text()) for path in sorted((tmp_path / "cluster").glob("*.json"))]
    assert [job["rule"] for job in jobs[:2]] == ["prepare", "train_translator"], text[-3000:]
    assert jobs[0]["state"] == "COMPLETED", text[-3000:]
    assert (tmp_path / "run" / "prepared" / "datalist.json").is_file()
    prepare, training = (" ".join(job["arguments"]) for job in jobs[:2])
    assert "--mem 64000" in prepare
    assert "--cpus-per-task=16" in prepare
    assert "--gpus=1" not in prepare
    assert "--gpus=1" in training
    assert "--mem 48000" in training
    assert "-t 2880" in training
    assert done.returncode != 0  # the training was killed
    assert len(jobs) == 3  # and submitted once more before that
