"""Faulty cases given to `scripts/prepare.py`: one run over many of them beside good ones.

Each faulty case gets its clear line, leaves nothing behind and does not touch the others.
"""

import json
import shutil
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from bad_scans import IMAGES, LABELS, NAMES, SERIES, save, series, source, target, write_fuzzed
from prepare_command import obeys_permissions, report_of, run, run_here, write_list

from crossmoda.data import item_faults

FUZZED = 40
GOOD = {"source_training": ["good1", "good2"], "target_training": ["good3", "good_dicom"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_series):
    """The folder of the scans, that of the prepared volumes, and what the command said."""
    folder, output = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("prepared") / "new"
    targets = [target(folder, name, make) for name, (make, _) in IMAGES.items()]
    targets += [target(folder, f"fuzzed{seed}", partial(write_fuzzed, seed=seed)) for seed in range(FUZZED)]
    targets += [series(folder, name, write_series) for name in [*SERIES, "good_dicom"]]
    targets += [target(folder, "twice"), target(folder, "twice"), target(folder, "good3")]
    targets += [{**target(folder, f"name{index}"), "case": name} for index, name in enumerate(NAMES)]
    sources = [source(folder, name, make) for name, (make, _) in LABELS.items()]
    sources += [source(folder, name) for name in GOOD["source_training"]]
    data_list = write_list(folder / "datalist.json", source_training=sources, target_training=targets)
    return folder, output, run(data_list, output)


def assert_one_line(done, prepared, case, *parts):
    """The case is faulty in the report and on stderr, in one line with these parts; nothing of it was written."""
    _, output, _ = prepared
    entry = report_of(output)[case]
    assert entry["status"] == "faulty"
    assert entry["details"] is None, entry["details"]  # no traceback
    (line,) = entry["faults"]
    assert "\n" not in line
    assert f"error: {line}\n" in done.stderr
    for part in parts:
        assert str(part) in line
    assert not [path for path in output.rglob("*") if path.name.startswith(f"{case}_")]


def test_there_are_30_kinds_and_more():
    assert len(IMAGES) + len(LABELS) + len(SERIES) + len(NAMES) >= 50


def test_exit_code_and_no_traceback(prepared):
    _, output, done = prepared
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not [entry for entry in report_of(output).values() if entry["details"]]
    assert f"Report: {output / 'report.json'}" in done.stdout


@pytest.mark.parametrize("name", IMAGES)
def test_faulty_image(prepared, name, tmp_path):
    folder, _, done = prepared
    if name == "forbidden" and not obeys_permissions(tmp_path):
        pytest.skip("this system lets the user read whatever its permissions")
    assert_one_line(done, prepared, name, folder / f"{name}_hrT2.nii.gz", IMAGES[name][1])


@pytest.mark.parametrize("name", LABELS)
def test_faulty_label(prepared, name):
    folder, _, done = prepared
    assert_one_line(done, prepared, name, folder / f"{name}_Label.nii.gz", LABELS[name][1])


@pytest.mark.parametrize("name", SERIES)
def test_faulty_series(prepared, name):
    folder, _, done = prepared
    assert_one_line(done, prepared, name, folder / name, SERIES[name])


@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_no_file_name(prepared, name):
    folder, output, done = prepared
    assert_one_line(done, prepared, name, folder / "datalist.json", repr(name), NAMES[name])
    assert not list(output.parent.rglob("escaped*"))


def test_case_that_occurs_twice(prepared):
    folder, _, done = prepared
    assert_one_line(done, prepared, "twice", folder / "datalist.json", "has 2 items of case twice in target_training")


def test_fuzzed_headers(prepared):
    """Each is either sound, and prepared, or named in the lines that its check gives."""
    folder, output, _ = prepared
    report = report_of(output)
    for seed in range(FUZZED):
        image = str(folder / f"fuzzed{seed}_hrT2.nii.gz")
        faults = item_faults({"image": image})
        assert report[f"fuzzed{seed}"]["faults"] == faults or not faults
        assert all(image in line for line in report[f"fuzzed{seed}"]["faults"])
    assert 5 < sum(report[f"fuzzed{seed}"]["status"] == "faulty" for seed in range(FUZZED)) < FUZZED


def test_good_cases_are_done_and_listed(prepared):
    _, output, _ = prepared
    report = report_of(output)
    content = json.loads((output / "datalist.json").read_text())
    for section, names in GOOD.items():
        listed = {item["case"]: item for item in content[section]}
        assert {name for name in listed if not name.startswith("fuzzed")} == set(names)
        for name in names:
            assert (report[name]["status"], report[name]["faults"]) == ("done", [])
            image = nib.load(output / listed[name]["image"])
            assert image.shape[:2] == (16, 16)
            assert np.ptp(image.get_fdata()) == pytest.approx(2)
        if section == "source_training":
            assert np.unique(nib.load(output / listed[names[0]]["label"]).get_fdata()).tolist() == [0, 1, 2]


def test_nothing_half_written(prepared):
    _, output, _ = prepared
    done = [entry for entry in report_of(output).values() if entry["status"] == "done"]
    expected = {f"target_training/{e['case']}_hrT2" for e in done if e["section"] == "target_training"}
    expected |= {f"source_training/{e['case']}_ceT1" for e in done if e["section"] == "source_training"}
    sidecars = {str(path.relative_to(output).with_suffix("")) for path in output.rglob("*_training/*.json")}
    images = {str(path.relative_to(output))[: -len(".nii.gz")] for path in output.rglob("*_training/*.nii.gz")}
    assert sidecars == expected
    assert {name for name in images if "Label" not in name} == expected
    assert [path.name for path in (output / "converted").iterdir()] == ["good_dicom_hrT2.nii.gz"]
    assert not [path for path in output.rglob("*") if ".tmp" in path.name]


def test_run_again_after_mending(prepared, tmp_path):
    """Only the mended case is done; the list then has it."""
    folder, output, _ = prepared
    copy = tmp_path / "prepared"
    shutil.copytree(output, copy)
    content = json.loads((folder / "datalist.json").read_text())
    wanted = ("good3", "constant")
    items = [item for item in content["target_training"] if item["case"] in wanted]
    items = [{**item, "image": str(folder / item["image"])} for item in items]
    mended = tmp_path / "mended.nii.gz"
    save(mended)
    items = [{**item, "image": str(mended)} if item["case"] == "constant" else item for item in items]
    assert run_here(write_list(tmp_path / "datalist.json", target_training=items), copy) == 0
    assert {case: entry["status"] for case, entry in report_of(copy).items()} == {
        "good3": "unchanged",
        "constant": "done",
    }
