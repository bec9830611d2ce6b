"""One pipeline a folder, and what a kill of the command alone does."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import time

import psutil
import pytest
from segmentation_bundle import ROOT

from crossmoda.errors import InputError

SCRIPT = ROOT / "scripts" / "run_recipe.py"


@pytest.fixture(scope="module")
def locked():
    return runpy.run_path(str(SCRIPT))["locked"]


def test_a_second_pipeline_in_a_folder_is_refused(locked, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="being worked on by another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_snakemake_keeps_the_lock_of_a_command_that_was_killed(locked, tmp_path):
    with locked(tmp_path) as lock:
        pipeline = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with pytest.raises(InputError), locked(tmp_path):
        pass
    pipeline.kill()
    pipeline.wait()
    with locked(tmp_path):
        pass


def test_sigterm_ends_the_jobs(tmp_path):
    pids = tmp_path / "pids"
    # The job needs a while to end, as a training does that is in a step.
    job = f"trap 'sleep 2; touch {tmp_path}/saved; exit' TERM; while true; do sleep 0.1; done"
    jobs = f'bash -c "{job}" & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait'
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})['run_snakemake'](['bash', '-c', {jobs!r}])"
    command = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(600):
        if pids.exists():
            break
        time.sleep(0.1)
    shell, job = map(int, pids.read_text().split())
    assert psutil.pid_exists(job)
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=30) == 0
    assert (tmp_path / "saved").exists()  # the command waits for its jobs
    for pid in (shell, job):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
