"""scripts/make_datalist.py as a user types it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import load_datalist
from crossmoda.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_datalist.py"
_spec = importlib.util.spec_from_file_location("make_datalist", SCRIPT)
make_datalist = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_datalist)

SOURCE, TARGET = Path("crossmoda2022_training/training_source"), Path("crossmoda2022_training/training_target")


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def root(tmp_path):
    """A 2022 release of two source cases, one target and one validation case, and hidden truth."""
    scan = np.random.RandomState(0).randint(0, 999, (12, 10, 8)).astype(np.int16)
    label = np.zeros((12, 10, 8), np.uint8)
    label[3:5], label[7] = 1, 2
    for case in ("crossmoda2021_ldn_1", "crossmoda2022_etz_0"):
        save(tmp_path / SOURCE / f"{case}_ceT1.nii.gz", scan)
        save(tmp_path / SOURCE / f"{case}_Label.nii.gz", label)
    save(tmp_path / TARGET / "crossmoda2021_ldn_106_hrT2.nii.gz", scan)
    save(tmp_path / "crossmoda2022_validation/validation/crossmoda2022_etz_210_hrT2.nii.gz", scan)
    save(tmp_path / "truth/training_target/crossmoda2021_ldn_106_Label.nii.gz", label)
    save(tmp_path / "truth/validation/crossmoda2022_etz_210_Label.nii.gz", label)
    return tmp_path


def run(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


def assert_one_fault(done, root, *parts):
    """One line on stderr with these parts, exit code 2, and nothing written."""
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert str(part) in done.stderr
    assert not [path for path in root.rglob("*") if path.suffix == ".json" or ".tmp" in path.name]


def test_release_and_oracle(root):
    done = run(root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "source_training: 2 cases (1 etz, 1 ldn), 2 with label" in done.stdout
    content = json.loads((root / "datalist.json").read_text())
    assert content["target_training"] == [
        {"case": "crossmoda2021_ldn_106", "site": "ldn", "image": str(TARGET / "crossmoda2021_ldn_106_hrT2.nii.gz")}
    ]
    assert "truth/" not in (root / "datalist.json").read_text()
    done = run(root, "--truth", root / "truth", "--output", root / "lists" / "oracle.json")
    assert done.returncode == 0
    content = json.loads((root / "lists" / "oracle.json").read_text())
    assert content["target_validation"][0]["label"] == "../truth/validation/crossmoda2022_etz_210_Label.nii.gz"


def test_truncated_scan(root):
    path = root / SOURCE / "crossmoda2021_ldn_1_ceT1.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    assert_one_fault(run(root), root, path, "is damaged or truncated: copy it again")


def test_two_dimensional_scan(root):
    path = root / TARGET / "crossmoda2021_ldn_106_hrT2.nii.gz"
    save(path, np.ones((12, 10), np.int16))
    assert_one_fault(run(root), root, path, "has shape (12, 10), a 3D volume is needed: join the slices")


def test_label_on_another_grid(root):
    path = root / SOURCE / "crossmoda2021_ldn_1_Label.nii.gz"
    save(path, np.zeros((12, 10, 8), np.uint8), np.diag([1, 1, 1.5, 1]))
    assert_one_fault(run(root), root, path, "lies on another grid than", "resample it to that grid")


def test_folder_without_labels(root):
    for path in (root / SOURCE).glob("*_Label.nii.gz"):
        path.unlink()
    assert_one_fault(run(root), root, root / SOURCE, "holds 2 source scans but no labels", "add {case}_Label.nii.gz")


def test_empty_folder(tmp_path):
    assert_one_fault(run(tmp_path), tmp_path, tmp_path, "holds no crossMoDA release", "name the folder that does")


def test_all_faults_at_once_and_skipping_them(root, capsys):
    truncated = root / SOURCE / "crossmoda2021_ldn_1_ceT1.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:500])
    save(root / TARGET / "crossmoda2021_ldn_106_hrT2.nii.gz", np.full((6, 6, 6), np.nan, np.float32))
    assert make_datalist.main([str(root)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == captured.err.count("\n") == 2
    assert "2 fault(s), nothing written" in captured.out
    assert not (root / "datalist.json").exists()
    assert make_datalist.main([str(root), "--skip_faulty"]) == 0
    content = json.loads((root / "datalist.json").read_text())
    assert [len(items) for items in content.values()] == [1, 0, 1]


def test_patterns(root):
    images, labels = f"{SOURCE}/{{case}}_ceT1.nii.gz", f"{SOURCE}/{{case}}_Label.nii.gz"
    assert make_datalist.main([str(root), "--source_images", images, "--source_labels", labels]) == 0
    assert len(json.loads((root / "datalist.json").read_text())["source_training"]) == 2


def test_folders_of_dicom_slices(root, write_series, capsys):
    scan = np.random.RandomState(0).randint(0, 999, (12, 10, 4)).astype(np.int16)
    for case in ("p2", "p10"):
        paths = write_series(root / "T2" / case, scan, np.diag([1, 1, 2, 1]))
    (root / "T2" / "notes.txt").write_text("hello")
    words = [str(root), "--target_images", "T2/{case}"]
    assert make_datalist.main(words) == 0
    content = json.loads((root / "datalist.json").read_text())
    assert [(item["case"], item["image"]) for item in content["target_training"]] == [
        ("p2", "T2/p2"),
        ("p10", "T2/p10"),
    ]
    with pytest.raises(InputError, match="T2/p2 is a folder of DICOM slices: convert it with"):
        load_datalist(root / "datalist.json", "target_training")
    paths[1].unlink()
    (root / "T2" / "p3").mkdir()
    assert make_datalist.main(words) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert f"{root / 'T2' / 'p3'} holds no DICOM file" in first
    assert f"{root / 'T2' / 'p10'} has slices missing" in second


def test_labels_without_images(root, capsys):
    with pytest.raises(SystemExit) as caught:
        make_datalist.main([str(root), "--target_labels", "{case}.nii.gz"])
    assert caught.value.code == 2
    assert "--target_labels needs --target_images" in capsys.readouterr().err


def test_help_explains_the_patterns(capsys):
    with pytest.raises(SystemExit) as caught:
        make_datalist.main(["--help"])
    assert caught.value.code == 0
    assert "{case}" in capsys.readouterr().out
