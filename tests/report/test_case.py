import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crossmoda.errors import InputError
from crossmoda.report import Study, write_case_report
from crossmoda.report.case_pictures import COCHLEA_COLOUR, INTRA_COLOUR, TUMOUR_COLOUR

SCRIPT = Path(__file__).parents[2] / "scripts" / "report_case.py"
AFFINE = np.diag([-0.5, -0.5, 1.0, 1.0])  # LPS, as scanners write
SHAPE = (60, 60, 24)


def write(folder, name, tumour=8, parts=False):
    """A scan with a cuboid of `tumour` voxels' edge in plane and 6 slices, and a cochlea of 4 x 4 x 3 voxels."""
    random = np.random.RandomState(0)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[20 : 20 + tumour, 30 : 30 + tumour, 10:16] = 1
    if parts:
        label[20:22][label[20:22] == 1] = 2
    label[8:12, 30:34, 10:13] = 3 if parts else 2
    image = (200 + 300 * (label > 0) + 20 * random.rand(*SHAPE)).astype(np.int16)
    paths = folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"
    for array, path in zip((image, label), paths, strict=True):
        nib.save(nib.Nifti1Image(array, AFFINE), path)
    return paths


def text_of(page):
    """Rows of the page's tables."""
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page.read_text(encoding="utf-8")))


def colours_of(page):
    content = re.search(r'base64,([^"]+)"', page.read_text(encoding="utf-8"))[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).reshape(-1, 3)
    return {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in np.unique(picture, axis=0)}


def test_page_states_the_sizes(tmp_path):
    scan, label = write(tmp_path, "patient")
    page, sheet = write_case_report(Study(scan, label), tmp_path / "out")
    assert (page.name, sheet.name) == ("patient_report.html", "patient_report.pdf")
    rows = text_of(page)
    assert rows["VS, volume"] == "0.10 mL (96 mm³)"  # 8 x 8 x 6 voxels of 0.25 mm3
    # Corners of the outline lie half a voxel beside the outer voxels' centres: 3.5 and 4 mm apart.
    assert rows["VS, largest axial diameter"] == f"{np.hypot(3.5, 4.0):.1f} mm"
    assert rows["both cochleae, volume"] == "0.012 mL (12 mm³)"
    assert rows["flags"] == "none"
    assert {TUMOUR_COLOUR, COCHLEA_COLOUR} <= colours_of(page)
    assert INTRA_COLOUR not in colours_of(page)
    source = page.read_text(encoding="utf-8")
    assert "Research use only" in source
    assert not re.search(r'(src|href)="(?!data:)', source)
    assert sheet.read_bytes().startswith(b"%PDF")
    assert not list((tmp_path / "out").glob(".*"))


def test_parts_koos_and_flags(tmp_path):
    scan, label = write(tmp_path, "patient", parts=True)
    (tmp_path / "patient_seg.json").write_text(
        json.dumps({"flags": ["unlike_training"], "unlike_training": {"spacing_z_mm": 20.0, "noise": -6.1}})
    )
    koos = tmp_path / "patient_koos.json"
    answer = {"grade": 3, "probabilities": {"1": 0.1, "2": 0.2, "3": 0.4, "4": 0.3}, "flags": ["unsure"]}
    koos.write_text(json.dumps(answer | {"features": {"volume_ml": 0.096, "distance_mm": None}}))
    page, _ = write_case_report(Study(scan, label, parts=True), tmp_path / "out", koos=koos)
    rows = text_of(page)
    assert rows["VS, volume"] == "0.10 mL (96 mm³)"
    assert rows["extra-meatal VS"] == "0.07 mL (75 %)"
    assert rows["intra-meatal VS"] == "0.02 mL (25 %)"
    assert rows["grade"] == "3"
    assert rows["probabilities"] == "1: 0.10, 2: 0.20, 3: 0.40, 4: 0.30"
    assert rows["volume ml"] == "0.10"
    assert "distance mm" not in rows
    source = page.read_text(encoding="utf-8")
    assert "unlike training: spacing z mm, noise" in source
    assert "Koos: unsure" in source
    assert {TUMOUR_COLOUR, INTRA_COLOUR, COCHLEA_COLOUR} <= colours_of(page)


def test_growth_between_two_scans(tmp_path):
    old, new = write(tmp_path, "old", tumour=8), write(tmp_path, "new", tumour=16)
    first, second = Study(*old, date(2024, 1, 31)), Study(*new, date(2026, 1, 30))  # 730 days
    page, _ = write_case_report(second, tmp_path / "out", prior=first)
    rows = text_of(page)
    assert rows["volume"] == "+300 %"
    assert rows["volume doubling time"] == "1.0 years"
    assert rows["VS on 2024-01-31"] == "0.10 mL, 5.3 mm axial"
    change = (np.hypot(7.5, 8.0) - np.hypot(3.5, 4.0)) / (730 / 365.25)
    assert rows["largest axial diameter"] == f"{change:+.1f} mm a year"


def test_pieces_and_absence_are_flagged(tmp_path):
    scan, label = write(tmp_path, "patient")
    image = nib.load(label)
    array = np.asarray(image.dataobj).copy()
    array[50:52, 10:12, 2] = 1
    nib.save(nib.Nifti1Image(array, AFFINE), label)
    page, _ = write_case_report(Study(scan, label), tmp_path / "two")
    assert "VS in 2 pieces, 99 % in the largest" in page.read_text(encoding="utf-8")
    array[array == 1] = 0
    nib.save(nib.Nifti1Image(array, AFFINE), label)
    page, _ = write_case_report(Study(scan, label), tmp_path / "none")
    assert text_of(page)["VS, volume"] == "0.00 mL (0 mm³)"
    assert "empty VS" in page.read_text(encoding="utf-8")


def test_bad_input_is_named_and_nothing_written(tmp_path):
    old, new = write(tmp_path, "old"), write(tmp_path, "new")
    output = tmp_path / "out"
    with pytest.raises(InputError, match="growth needs the dates of both scans"):
        write_case_report(Study(*new), output, prior=Study(*old))
    with pytest.raises(InputError, match="the second must be the later one"):
        write_case_report(Study(*new, date(2024, 1, 1)), output, prior=Study(*old, date(2025, 1, 1)))
    with pytest.raises(InputError, match=r"none\.json is missing or no JSON file"):
        write_case_report(Study(*new), output, koos=tmp_path / "none.json")
    shifted = tmp_path / "shifted_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(new[1]).dataobj), np.diag([1, 1, 1, 1.0])), shifted)
    with pytest.raises(InputError, match=r"shifted_seg.nii.gz lies on another grid"):
        write_case_report(Study(new[0], shifted), output)
    assert not output.exists()


def test_command(tmp_path):
    scan, label = write(tmp_path, "patient")
    words = [sys.executable, str(SCRIPT), "--scan", str(scan), "--label", str(label), "--output_dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "patient_report.html").is_file()
    done = subprocess.run([*words, "--prior_scan", str(scan)], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert "needs both --prior_scan and --prior_label" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_scans_of_a_data_list(tmp_path):
    items = []
    for name in ("a", "b"):
        scan, _ = write(tmp_path, name)
        items.append({"case": name, "site": "ldn", "image": str(scan)})
    (tmp_path / "list.json").write_text(json.dumps({"target_validation": items}))
    (tmp_path / "koos").mkdir()
    (tmp_path / "koos" / "b_koos.json").write_text(json.dumps({"grade": 3, "probabilities": {"3": 1.0}, "flags": []}))
    words = [sys.executable, str(SCRIPT), "--data_list", str(tmp_path / "list.json"), "--label", str(tmp_path)]
    words += ["--koos", str(tmp_path / "koos"), "--output_dir", str(tmp_path / "out"), "--model", "ours"]
    (tmp_path / "model.pt").write_bytes(b"weights")
    words += ["--weights", str(tmp_path / "model.pt"), "--training_data", str(tmp_path / "list.json")]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    pages = {name: text_of(tmp_path / "out" / f"{name}_report.html") for name in ("a", "b")}
    assert "grade" not in pages["a"]
    assert pages["b"]["grade"] == "3"
    assert pages["a"]["model"] == "ours"
    own = hashlib.sha256(hashlib.sha256(b"weights").digest()).hexdigest()[:12]
    assert pages["a"]["weights"] == f"1 networks, sha256 {own}"
    assert re.fullmatch(r"list\.json, sha256 [0-9a-f]{12}", pages["a"]["training data"])
    for more, message in (
        (["--date", "2026-01-01"], "--date is of one scan"),
        (["--label", items[0]["image"]], "is no folder: with --data_list --label is a folder"),
        (["--koos", items[0]["image"]], "is no folder: with --data_list --koos is a folder"),
        (["--weights", str(tmp_path / "old.pt")], "old.pt is missing: name the weights"),
        (["--koos", str(tmp_path)], "has no <case>_koos.json of any scan"),
    ):
        done = subprocess.run([*words, *more], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 2
        assert message in done.stderr
    (tmp_path / "b_seg.nii.gz").unlink()
    done = subprocess.run([*words, "--output_dir", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert "b_seg.nii.gz is missing" in done.stderr
    assert not (tmp_path / "none").exists()
