"""A tiny recipe with every kind of stage: killed, resumed, and applied to new scans."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from packaging_cases import tumour_weights
from recipe_run import write_recipe, write_scans
from segmentation_bundle import ROOT, oblique_affine, scan_and_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
CASES = {"case_20", "case_21"}
SYSTEMS = ("segmentation/source-only", "segmentation/oracle", "segmentation/flat", "segmentation/deep")


def command(folder: Path) -> list[str]:
    words = [sys.executable, str(ROOT / "scripts" / "run_recipe.py"), str(folder / "tiny.yaml"), "--jobs", "2"]
    words += ["--data", str(folder / "scans" / "datalist.json"), "--truth", str(folder / "scans" / "oracle.json")]
    return [*words, "--output_dir", str(folder / "run")]


def start(folder: Path) -> subprocess.Popen:
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command(folder), cwd=folder, stdout=log, stderr=log, start_new_session=True)


def kill_when(process: subprocess.Popen, path: Path) -> None:
    """Kill the command and all its jobs at once, as a power cut would, as soon as `path` exists."""
    for _ in range(12000):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run that was killed in a training."""
    folder = tmp_path_factory.mktemp("recipe")
    write_scans(folder / "scans")
    write_recipe(folder, tumour_weights(folder / "weights"))
    run = folder / "run"
    kill_when(start(folder), run / "segmentation" / "flat" / "fold0" / "model" / "last.pt")
    assert not (run / "finished").exists()
    assert (run / "prepared" / "datalist.json").is_file()
    prepared = (run / "prepared" / "datalist.json").stat().st_mtime_ns
    assert start(folder).wait(timeout=2800) == 0, (folder / "log").read_text(errors="replace")[-4000:]
    assert (run / "prepared" / "datalist.json").stat().st_mtime_ns == prepared  # what was done is not done again
    return folder


def test_every_system_is_judged_and_in_the_report(folder):
    run = folder / "run"
    for result in (*[f"{system}/predictions" for system in SYSTEMS], "fusion/both", "self_training/rounds/predictions"):
        with (run / result / "metrics.csv").open() as file:
            assert {row["case"] for row in csv.DictReader(file)} == CASES, result
    results = json.loads((run / "report" / "results.json").read_text(encoding="utf-8"))
    assert set(results["systems"]) == {"source-only", "oracle", "flat", "deep", "both", "rounds"}
    assert results["focus"] == "both"
    assert (run / "report" / "index.html").is_file()
    rounds = json.loads((run / "self_training" / "rounds" / "evaluation" / "rounds.json").read_text())
    assert [entry["round"] for entry in rounds["rounds"]] == [0, 1]
    assert {path.name.removesuffix("_report.html") for path in (run / "cases").glob("*.html")} == CASES


def test_the_fusion_s_first_member_compares_scans_with_the_training_s(folder):
    run = folder / "run"
    reference = json.loads((run / "segmentation" / "flat" / "model" / "reference.json").read_text())
    assert reference["cases"] == 5
    assert reference["features"]["spacing_z_mm"]["median"] == pytest.approx(1.7, rel=1e-3)  # of raw scans
    likeness = {
        name: json.loads((run / name / "case_20_seg.json").read_text())["unlike_training"]
        for name in ("segmentation/flat/predictions", "segmentation/deep/predictions", "fusion/both")
    }
    assert isinstance(likeness["fusion/both"], dict)
    assert likeness["fusion/both"] == likeness["segmentation/flat/predictions"]
    assert likeness["segmentation/deep/predictions"] is None


def test_the_teacher_of_the_rounds_is_the_recipe_s_own_system(folder):
    run = folder / "run"
    teacher = run / "self_training" / "rounds" / "round_0" / "networks" / "deep" / "model" / "model.pt"
    assert teacher.read_bytes() == (run / "segmentation" / "deep" / "model" / "model.pt").read_bytes()


def test_stages_are_nested_in_one_finished_mlflow_run(folder):
    with sqlite3.connect(folder / "run" / "mlruns.db") as database:
        names = dict(database.execute("select run_uuid, name from runs").fetchall())
        states = dict(database.execute("select run_uuid, status from runs").fetchall())
        parents = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall())
    (pipeline,) = set(names) - set(parents)
    assert states[pipeline] == "FINISHED"
    nested = {names[run] for run, parent in parents.items() if parent == pipeline}
    grading = {f"koos {stage} msf_koos_net seed 0 fold {fold}" for stage in ("pretrain", "finetune") for fold in (0, 1)}
    trained = {"translation msf_net", "segmentation deep", "segmentation flat fold 1", "self-training rounds"}
    assert nested >= trained | grading


def jobs_of_a_dry_run(folder: Path, *options: str) -> set[str]:
    done = subprocess.run([*command(folder), "--dry-run", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, re.MULTILINE)) - {"total"}


def test_a_changed_value_makes_again_what_depends_on_it(folder):
    assert jobs_of_a_dry_run(folder) == set()
    jobs = jobs_of_a_dry_run(folder, "--config", "systems::flat::infer::overlap=0.5")
    assert jobs >= {"evaluate", "fuse", "koos_grade", "report", "case_reports"}
    assert not jobs & {"prepare", "train_translator", "train_segmenter", "train_fold", "koos_finetune", "self_train"}


def test_grades_are_judged_and_in_the_reports(folder):
    koos = folder / "run" / "koos" / "msf_koos_net" / "seed0"
    with (koos / "grades.csv").open() as file:
        grades = {row["case"]: row["class"] for row in csv.DictReader(file)}
    assert set(grades) == CASES
    assert set(grades.values()) <= set("1234")
    judged = json.loads((koos / "judged" / "metrics.json").read_text())["all"]
    assert (judged["n"], judged["ungraded"]) == (2, 0)
    page = (folder / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Koos grades of 2 cases" in page
    assert "msf_koos_net" in page
    for case, grade in grades.items():
        assert json.loads((koos / f"{case}_koos.json").read_text())["grade"] == int(grade)
        assert grade_of(folder / "run" / "cases" / f"{case}_report.html") == grade


def grade_of(report: Path) -> str | None:
    """The Koos grade in a case report."""
    row = re.search(r'<th scope="row">grade</th><td>(.*?)</td>', report.read_text(encoding="utf-8"))
    return row and row[1]


@pytest.fixture
def recipe(folder):
    """The run's recipe, for a test that changes it."""
    file = folder / "run" / "recipe.yaml"
    before = file.read_text()
    yield file
    file.write_text(before)


@pytest.fixture(scope="module")
def scans(tmp_path_factory, write_series):
    """A new scan as a NIfTI file and one as a DICOM series, each on a grid of its own; one with thick slices."""
    folder = tmp_path_factory.mktemp("new")
    affine = oblique_affine(-6.0, (0.6, 0.5, 1.5), (40, 48, 15))
    nib.save(nib.Nifti1Image(scan_and_label(5, affine, (40, 48, 15))[0], affine), folder / "anna_hrT2.nii.gz")
    thick = oblique_affine(spacing=(0.5, 0.6, 3.4), shape=(44, 40, 8))
    nib.save(nib.Nifti1Image(scan_and_label(7, thick, (44, 40, 8))[0], thick), folder / "thick_hrT2.nii.gz")
    straight = np.diag([-0.5, -0.6, 1.7, 1.0])
    write_series(folder / "series_b", scan_and_label(6, straight, (44, 40, 14))[0], straight)
    return folder


@pytest.mark.parametrize("final", ["both", "rounds", "flat"])
def test_predict_gives_labels_in_each_scan_s_own_grid(folder, recipe, scans, final, tmp_path):
    content = yaml.safe_load(recipe.read_text()) | {"final": final}
    graded = content["koos"]["masks"] == final
    if not graded:  # spares a second prediction, for the masks
        del content["koos"]
    recipe.write_text(yaml.safe_dump(content))
    words = [sys.executable, str(ROOT / "scripts" / "predict.py"), str(folder / "run")]
    words += [str(scans / name) for name in ("anna_hrT2.nii.gz", "series_b", "thick_hrT2.nii.gz")]
    words += ["--output_dir", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for case, scan in (("anna", scans / "anna_hrT2.nii.gz"), ("series_b", tmp_path / "out/converted/series_b.nii.gz")):
        label, image = nib.load(tmp_path / "out" / f"{case}_seg.nii.gz"), nib.load(scan)
        assert label.shape == image.shape
        assert np.array_equal(label.affine, image.affine)
        assert label.get_data_dtype() == np.uint8
        report = json.loads((tmp_path / "out" / f"{case}_seg.json").read_text())
        assert set(report["volumes_ml"]) == {"VS", "cochlea"}
        assert (tmp_path / "out" / f"{case}_report.html").is_file()
        assert (tmp_path / "out" / f"{case}_report.pdf").is_file()
        assert not [name for name in report["unlike_training"] or {} if name.startswith(("spacing", "extent"))]
        answer = tmp_path / "out" / f"{case}_koos.json"
        assert answer.is_file() == graded
        grade = str(json.loads(answer.read_text())["grade"]) if graded else None
        assert grade_of(tmp_path / "out" / f"{case}_report.html") == grade
    thick = json.loads((tmp_path / "out" / "thick_seg.json").read_text())
    if final == "rounds":  # not the result of this run, so that it has no reference
        assert thick["unlike_training"] is None
    else:
        assert "unlike_training" in thick["flags"]
        assert thick["unlike_training"]["spacing_z_mm"] == pytest.approx(20, abs=0.1)  # spreads of 5 %
        assert "unlike training: spacing z mm" in (tmp_path / "out" / "thick_report.html").read_text()
    assert not list((tmp_path / "out").glob(".members_*"))
