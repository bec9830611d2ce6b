"""Preparation of a small list: what is written, what is skipped, what survives a kill, what is reported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import load_datalist, read_header
from crossmoda.errors import InputError
from crossmoda.preparation import Recipe, prepare
from crossmoda.preparation.case import Task, explain, task_hash
from crossmoda.preparation.workers import run_all

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare.py"
SMALL = {"spacing": [1.5, 1.5, 2.0], "size": [32, 24, -1]}


def shin() -> Recipe:
    return Recipe.load("shin2021", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.nii.gz")}


def test_volumes_sidecars_and_list(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = prepare(raw, shin(), out, progress=False)
    assert summary.counts == {"done": 5}
    items = load_datalist(out / "datalist.json", "source_training", require_label=True, progress=False)
    assert [item["case"] for item in items] == ["a", "b"]
    for item in items:
        header = read_header(item["image"])
        assert header.shape[:2] == (32, 24)
        assert np.allclose(header.spacing, (1.5, 1.5, 2.0), atol=1e-3)
        image = nib.load(item["image"])
        assert image.get_data_dtype() == np.float32
        assert (image.get_fdata().min(), image.get_fdata().max()) == (-1, 1)
        assert set(np.unique(nib.load(item["label"]).get_fdata())) == {0, 1, 2}
    sidecar = json.loads((out / "source_training" / "a_ceT1.json").read_text())
    scan = nib.load(raw.parent / "a_image.nii.gz")
    assert sidecar["scan"]["shape"] == list(scan.shape)
    assert np.allclose(sidecar["scan"]["affine"], scan.affine)
    assert np.array_equal(sidecar["scan_from_prepared"], np.eye(4))
    assert sidecar["prepared"]["range"] == [-1, 1]
    assert sidecar["warnings"] == []
    assert [item["case"] for item in load_datalist(out / "datalist.json", "target_validation", progress=False)] == ["d"]


def test_place_in_the_world_is_kept(raw: Path, tmp_path: Path) -> None:
    """The labels' centres of mass, in mm, before and after (nearest neighbours would move them by up to 0.4 mm)."""
    out = tmp_path / "out"
    prepare(raw, Recipe.load("shin2021", {**SMALL, "label_mode": "linear"}), out, progress=False)
    for case in ("a", "b"):
        centres = []
        for path in (raw.parent / f"{case}_Label.nii.gz", out / "source_training" / f"{case}_Label.nii.gz"):
            image = nib.load(path)
            voxels = np.argwhere(image.get_fdata() == 1)
            centres.append(voxels.mean(0) @ image.affine[:3, :3].T + image.affine[:3, 3])
        assert np.linalg.norm(centres[0] - centres[1]) < 0.3


HAN = {
    "spacing": [1.5, 1.5, 2.0],
    "start": [0, 0],
    "size": [32, 24, 8],
    "unregistered": ["source_training", "target_training", "target_validation"],
}


def test_a_faulty_scan_does_not_become_the_reference_of_all_others(raw: Path, tmp_path: Path) -> None:
    content = json.loads(raw.read_text())
    first, second = [item["case"] for item in content["target_training"]][:2]
    (raw.parent / content["target_training"][0]["image"]).write_bytes(b"not a scan")
    (raw.parent / content["source_training"][0]["image"]).unlink()
    summary = prepare(raw, Recipe.load("han2022", HAN), tmp_path / "out", progress=False)
    assert summary.counts == {"done": 3, "faulty": 2}
    written = json.loads((tmp_path / "out" / "references" / "reference_hrT2.json").read_text())
    assert written["case"] == second
    report = (tmp_path / "out" / "report.json").read_text()
    assert f"reference_hrT2: {first} cannot serve" in report
    assert "reference_hrT2: crossmoda2021_ldn_106 is not in the list, " + second + " serves instead" in report


def test_without_any_sound_reference_it_stops(raw: Path, tmp_path: Path) -> None:
    content = json.loads(raw.read_text())
    for section in ("target_training", "target_validation"):
        for item in content[section]:
            (raw.parent / item["image"]).write_bytes(b"not a scan")
    with pytest.raises(InputError, match=r"reference_hrT2: c cannot serve: .*nor can the 2 others"):
        prepare(raw, Recipe.load("han2022", HAN), tmp_path / "out", progress=False)


def test_two_processes_give_the_same(raw: Path, tmp_path: Path) -> None:
    prepare(raw, shin(), tmp_path / "one", jobs=1, progress=False)
    prepare(raw, shin(), tmp_path / "two", jobs=2, progress=False)
    first, second = (
        {name: nib.load(folder / name) for name in contents(folder)} for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert first.keys() == second.keys()
    for name, image in first.items():
        assert np.array_equal(image.get_fdata(), second[name].get_fdata()), name


def test_done_cases_are_left_and_changed_ones_made_anew(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, shin(), out, progress=False)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert prepare(raw, shin(), out, progress=False).counts == {"unchanged": 5}
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}

    scan = nib.load(raw.parent / "c_image.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj)[::-1].copy(), scan.affine), raw.parent / "c_image.nii.gz")
    assert prepare(raw, shin(), out, progress=False).counts == {"unchanged": 4, "done": 1}
    (out / "source_training" / "a_Label.nii.gz").unlink()
    assert prepare(raw, shin(), out, progress=False).counts == {"unchanged": 4, "done": 1}
    other = Recipe.load("shin2021", {**SMALL, "size": [30, 24, -1]})
    assert prepare(raw, other, out, progress=False).counts == {"done": 5}


@pytest.mark.parametrize("jobs", [1, 2])
def test_faulty_cases_do_not_stop_the_others(raw: Path, tmp_path: Path, jobs: int) -> None:
    (raw.parent / "b_image.nii.gz").write_bytes((raw.parent / "b_image.nii.gz").read_bytes()[:900])
    out = tmp_path / "out"
    summary = prepare(raw, shin(), out, jobs=jobs, progress=False)
    assert summary.counts == {"done": 4, "faulty": 1}
    report = json.loads(summary.report.read_text())
    (faulty,) = [case for case in report["cases"] if case["status"] == "faulty"]
    assert faulty["case"] == "b"
    assert "b_image.nii.gz is damaged or truncated" in faulty["faults"][0]
    assert not list(out.rglob("b_*"))
    assert [item["case"] for item in load_datalist(out / "datalist.json", "source_training", progress=False)] == ["a"]


def test_a_case_that_became_faulty_leaves_no_old_result(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, shin(), out, progress=False)
    scan = nib.load(raw.parent / "c_image.nii.gz")
    nib.save(nib.Nifti1Image(np.full(scan.shape, 7, np.int16), scan.affine), raw.parent / "c_image.nii.gz")
    assert prepare(raw, shin(), out, progress=False).counts == {"unchanged": 4, "faulty": 1}
    assert not list(out.rglob("c_*"))


def test_names_that_cannot_name_files_and_doubles_are_faults(raw: Path, tmp_path: Path) -> None:
    content = json.loads(raw.read_text())
    content["target_training"] += [dict(content["target_training"][0])]
    content["target_validation"] += [dict(content["target_validation"][0], case="../d")]
    raw.write_text(json.dumps(content))
    summary = prepare(raw, shin(), tmp_path / "out", progress=False)
    faults = [line for outcome in summary.outcomes for line in outcome.faults]
    assert len(faults) == 2
    assert any("2 items of case c" in line for line in faults)
    assert any("'../d' can't name a file" in line for line in faults)
    assert summary.counts["done"] == 4


def test_a_crop_that_cuts_labels_off_is_told(raw: Path, tmp_path: Path) -> None:
    recipe = Recipe.load("shin2021", {**SMALL, "size": [12, 24, -1]})
    summary = prepare(raw, recipe, tmp_path / "out", progress=False)
    warnings = [line for outcome in summary.outcomes for line in outcome.warnings]
    assert any("of label 1 lies outside" in line for line in warnings)


def test_a_failed_registration_is_told_and_leaves_the_scan_where_it_is(raw: Path, tmp_path: Path) -> None:
    """Noise is no head: its registration must fail, and nothing of it may go on silently."""
    scan = nib.load(raw.parent / "a_image.nii.gz")
    noise = np.random.RandomState(0).randint(0, 1000, scan.shape).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, scan.affine), raw.parent / "a_image.nii.gz")
    raw.write_text(json.dumps({"source_training": json.loads(raw.read_text())["source_training"][:1]}))
    changes = {"denoise": False, "correct_bias": False, "template_shape": [96, 114, 96], "template_spacing": [2, 2, 2]}
    with pytest.raises(InputError, match="none of them can be used"):  # to learn the region of interest from
        prepare(raw, Recipe.load("li2021", changes), tmp_path / "out", progress=False)
    summary = prepare(raw, Recipe.load("li2021", {**changes, "roi_size": None}), tmp_path / "out", progress=False)
    assert summary.counts == {"done": 1}
    assert "registration failed" in summary.outcomes[0].warnings[0]
    sidecar = json.loads((tmp_path / "out" / "source_training" / "a_ceT1.json").read_text())
    assert sidecar["registration"]["failure"]
    assert sidecar["warnings"] == summary.outcomes[0].warnings
    assert np.array_equal(sidecar["scan_from_prepared"], np.eye(4))


def test_like_takes_the_settings_of_an_earlier_preparation(raw: Path, tmp_path: Path) -> None:
    prepare(raw, shin(), tmp_path / "one", progress=False)
    prepare(raw, Recipe.load("kang2022"), tmp_path / "two", progress=False, like=tmp_path / "one")
    assert (tmp_path / "one" / "preparation.json").read_text() == (tmp_path / "two" / "preparation.json").read_text()
    first, second = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert first.keys() == second.keys()


def test_output_that_cannot_be_a_folder(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        prepare(raw, shin(), tmp_path / "file", progress=False)


def test_hash_follows_contents_settings_and_section(raw: Path, tmp_path: Path) -> None:
    item = {"case": "a", "image": str(raw.parent / "a_image.nii.gz"), "label": str(raw.parent / "a_Label.nii.gz")}

    def key(section: str = "source_training", recipe: Recipe | None = None, entries: dict | None = None) -> str:
        return task_hash(Task(entries or item, section, recipe or shin(), tmp_path, (0, 1, 2)))

    assert key() == key()
    renamed = tmp_path / "other.nii.gz"
    renamed.write_bytes(Path(item["image"]).read_bytes())
    assert key(entries={**item, "image": str(renamed)}) == key()  # the same scan elsewhere
    others = [
        key("target_training"),
        key(recipe=Recipe.load("shin2021")),
        key(entries={"case": "a", "image": item["image"]}),
    ]
    assert len({key(), *others}) == 4


def test_faults_of_the_machine_are_told(raw: Path, tmp_path: Path) -> None:
    task = Task({"case": "a", "image": "a.nii.gz"}, "source_training", shin(), tmp_path, (0, 1, 2))
    full = OSError(28, "No space left on device")
    assert explain(full, task) == ([f"{tmp_path} is full (No space left on device): make room and run again"], None)
    assert "fewer --jobs" in explain(MemoryError(), task)[0][0]
    assert "permissions" in explain(PermissionError(13, "Permission denied", "x"), task)[0][0]
    lines, details = explain(KeyError("odd"), task)
    assert "KeyError" in lines[0]
    assert "KeyError" in details


def kill_self(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return task


def test_a_killed_process_is_told_of_and_nothing_hangs() -> None:
    results = run_all(kill_self, [0, 1, 2], "killing", jobs=2, progress=False, on_lost=lambda task: f"lost {task}")
    assert "lost 1" in results
    assert len(results) == 3


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(raw: Path, tmp_path: Path) -> None:
    """SIGKILL after growing times: no half-written file, and in the end the same as undisturbed."""
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--recipe", "shin2021", "--set", "spacing=[0.4,0.4,1]"]
    command += ["--set", "size=[200,200,-1]", "--datalist", str(raw), "--output_dir", str(out)]
    kills = 0
    for seconds in (4, 6, 8, 11, 15):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        for path in out.rglob("*.nii.gz"):
            if not path.name.startswith("."):
                nib.load(path).get_fdata()  # whole
    assert kills
    subprocess.run(command, check=True, capture_output=True)
    assert not list(out.rglob(".*.tmp.*"))
    undisturbed = tmp_path / "undisturbed"
    subprocess.run([*command[:-1], str(undisturbed)], check=True, capture_output=True)
    for path in undisturbed.rglob("*.nii.gz"):
        twin = nib.load(out / path.relative_to(undisturbed))
        assert np.array_equal(nib.load(path).get_fdata(), twin.get_fdata())


def test_command(raw: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, encoding="utf-8")

    shown = run("--recipe", "kang2022", "--show")
    assert shown.returncode == 0
    assert "spacing: [0.41, 0.41, 1.5]" in shown.stdout
    unknown = run("--recipe", "kang2022", "--set", "spacin=[1,1,1]", "--show")
    assert unknown.returncode == 2
    assert "did you mean spacing?" in unknown.stderr
    both = run("--recipe", "kang2022", "--like", str(tmp_path))
    assert both.returncode == 2
    assert "either --recipe" in both.stderr
