"""scripts/make_phantom.py as a user meets it: faults in one line, restart after a kill, the full preset."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.phantom import make_phantom
from crossmoda.phantom.layout import case_files

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_phantom.py"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--sites", "ldn,paris"], "paris"),
        (["--sites", "ukm"], "--release 2023"),
        (["--sites", "ldn,ldn"], "once"),
        (["--sites", ","], "ldn,etz"),
        (["--source", "-1"], "--source -1"),
        (["--validation", "-3"], "--validation -3"),
        (["--jobs", "0"], "--jobs"),
        (["--seed", "-1"], "--seed"),
        (["--target", "211"], "210"),
    ],
)
def test_a_bad_flag_ends_with_one_line(flags, word, tmp_path, monkeypatch, capsys):
    output = tmp_path / "phantom"
    monkeypatch.setattr(sys, "argv", ["make_phantom.py", "--output", str(output), *flags])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("error: ")
    assert word in message
    assert not output.exists()


def test_a_file_as_output_ends_with_one_line(tmp_path, monkeypatch, capsys):
    output = tmp_path / "file"
    output.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["make_phantom.py", "--output", str(output)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {output} is a file: give a folder as --output\n"
    assert output.read_text() == "mine"


def test_run_again_makes_only_what_is_missing_with_the_same_bytes(phantom):
    """As after a kill: one case lacks files, a temporary file lies about; the other cases stay untouched."""
    case = phantom.cases[-1]
    files = case_files(phantom.root, "2022", case)
    contents = {path: path.read_bytes() for path in files.values()}
    others = {
        path: path.stat().st_mtime_ns
        for c in phantom.cases[:-1]
        for path in case_files(phantom.root, "2022", c).values()
    }
    files["facts"].unlink()
    files["label"].unlink()
    leftover = files["image"].with_name(f".{files['image'].name}.1.tmp")
    leftover.write_bytes(b"half a scan")
    make_phantom(phantom.root, source=4, target=2, validation=1, seed=3, progress=False)
    assert not leftover.exists()
    assert {path: path.read_bytes() for path in files.values()} == contents
    assert {path: path.stat().st_mtime_ns for path in others} == others


def _start(output: Path) -> subprocess.Popen:
    """The phantom of the fixture, but by the script and with two processes."""
    flags = ["--source", "4", "--target", "2", "--validation", "1", "--seed", "3", "--jobs", "2"]
    command = [sys.executable, str(SCRIPT), "--output", str(output), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
def test_killed_and_restarted_with_two_jobs_gives_the_same_bytes(phantom, tmp_path):
    output = tmp_path / "phantom"
    process = _start(output)
    facts = output / "truth" / "facts"
    for _ in range(3000):
        if (facts.exists() and any(facts.glob("*.json"))) or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in output.rglob("*.nii.gz"):
        if not path.name.startswith("."):
            np.asanyarray(nib.load(path).dataobj)  # a half-written file would not decompress
    done = {path: path.stat().st_mtime_ns for path in facts.glob("*.json")}
    assert 0 < len(done) < 7
    process = _start(output)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert text.decode().startswith("7 cases in ")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    files = {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    wanted = {p.relative_to(phantom.root): p.read_bytes() for p in phantom.root.rglob("*") if p.is_file()}
    assert files.keys() == wanted.keys()
    assert [str(name) for name in files if files[name] != wanted[name]] == []


FULL = """
import json, sys
import numpy as np
from crossmoda.phantom import CaseSimulator
simulator = CaseSimulator("ldn", "ceT1", "full")
simulator.set_random_state(1)
case = simulator(3)
np.savez(sys.argv[1], image=case.image, parts=case.parts, parcels=case.parcels, affine=case.affine)
# The process's own peak: ru_maxrss starts from that of the process that spawned it.
kib = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps({"facts": case.facts, "kib": kib}))
"""


@pytest.mark.slow
def test_full_case_has_the_size_of_a_real_scan_and_fits_in_memory(tmp_path):
    path = tmp_path / "case.npz"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, encoding="utf-8", env=environment, timeout=600
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["kib"] <= 6 * 1024**2  # 6 GiB
    case = np.load(path)
    image, parts, parcels = case["image"], case["parts"], case["parcels"]
    assert image.shape == parts.shape == parcels.shape == (512, 512, 120)
    assert image.dtype == np.int16
    assert np.allclose(np.linalg.norm(case["affine"][:3, :3], axis=0), (0.41015625, 0.41015625, 1.5))
    assert set(np.unique(parts)) == {0, 1, 2, 3}
    voxel = 0.41015625**2 * 1.5
    assert 120 <= (parts == 3).sum() * voxel <= 240
    assert 0.5 <= result["facts"]["volume_ml"] <= 5
    brain = np.median(image[parcels == 10])
    assert np.median(image[np.isin(parts, (1, 2))]) > brain  # it takes up contrast
    assert np.median(image[parcels == 7]) < 0.6 * brain  # CSF is dark
    assert image[:8, :8].mean() < 0.2 * brain  # air
