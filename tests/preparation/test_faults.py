"""Bad input given to `scripts/prepare.py` as a user types it: one run over many faulty cases beside good ones.

Each faulty case gets its clear line, leaves nothing behind and does not touch the others.
"""

import ctypes
import gzip
import importlib.util
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import item_faults

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare.py"
_spec = importlib.util.spec_from_file_location("prepare_script", SCRIPT)
prepare_script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(prepare_script)
RECIPE = ["--recipe", "shin2021", "--set", "spacing=[1,1,1.5]", "--set", "size=[16,16,-1]"]
SHAPE = (14, 12, 8)
AFFINE = np.diag([1, 1, 1.5, 1.0])
FUZZED = 40
FIELDS = {"dim": 40, "datatype": 70, "pixdim": 76, "scl_slope": 112, "srow_x": 280}  # bytes of the header


def voxels(dtype=np.int16):
    return np.random.RandomState(0).randint(0, 999, SHAPE).astype(dtype)


def classes(**changes):
    label = np.zeros(SHAPE, np.float32)
    label[4:6, 4:8, 3:6], label[9:11, 5:7, 4:6] = 1, 2
    label[0, 0, 0] = changes.get("odd", 0)
    return label


def save(path, array=None, affine=AFFINE):
    nib.save(nib.Nifti1Image(voxels() if array is None else array, affine), path)


def write_cut(path, end):
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(end * len(content))])


def write_flipped(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def write_patched(path, field, layout, values):
    """A file with some bytes of its header overwritten."""
    save(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<" + layout, content, FIELDS[field], *values)
    path.write_bytes(gzip.compress(bytes(content)))


def write_garbage(path):
    save(path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(np.random.RandomState(1).bytes(352) + content[352:]))


def write_fuzzed(path, seed):
    random = np.random.RandomState(seed)
    save(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    for place in random.randint(0, 352, 6):
        content[place] = random.randint(256)
    path.write_bytes(gzip.compress(bytes(content)))


def write_with(value, path):
    array = voxels(np.float32)
    array[3, 3, 3] = value
    save(path, array)


def write_sheared(path):
    affine = AFFINE.copy()
    affine[0, 2] = 0.4
    save(path, affine=affine)


def write_forbidden(path):
    save(path)
    path.chmod(0)


def write_plain(path):
    save(path.with_name("plain.nii"))
    path.with_name("plain.nii").rename(path)


COLOUR = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
# How the image of a target case is made, and words of the fault's line
IMAGES = {
    "missing": (lambda path: None, "is missing: correct the path"),
    "folder": (Path.mkdir, "holds no DICOM file"),
    "text": (lambda path: path.write_text("case,site\n"), "no NIfTI file: convert it"),
    "empty": (Path.touch, "is damaged or truncated: copy it again (it is empty)"),
    "cut_header": (partial(write_cut, end=0.05), "is damaged or truncated: copy it again"),
    "cut_middle": (partial(write_cut, end=0.5), "is damaged or truncated: copy it again"),
    "cut_tail": (partial(write_cut, end=0.998), "is damaged or truncated: copy it again"),
    "flipped": (write_flipped, "copy it again"),
    "garbage": (write_garbage, "copy it again"),
    "plain": (write_plain, "is not compressed although its name ends in .gz: rename it"),
    "giant": (partial(write_patched, field="dim", layout="4h", values=(3, 30000, 30000, 30000)), "damaged header"),
    "fewer": (partial(write_patched, field="dim", layout="4h", values=(3, 14, 12, 4)), "as many voxels as its header"),
    "more": (partial(write_patched, field="dim", layout="4h", values=(3, 14, 12, 9)), "as many voxels as its header"),
    "dtype": (partial(write_patched, field="datatype", layout="h", values=(77,)), "damaged header"),
    "negative_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, -1)), "a spacing of -1 x 1"),
    "zero_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, 0)), "a spacing of 0 x 1 x 1.5"),
    "nan_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, np.nan)), "a spacing of nan x 1"),
    "metres": (partial(save, affine=np.diag([1e-3, 1e-3, 1.5e-3, 1])), "plausible: correct its unit or spacing"),
    "huge_spacing": (partial(save, affine=np.diag([100, 100, 150, 1])), "plausible: correct its unit or spacing"),
    "nan_affine": (partial(write_patched, field="srow_x", layout="f", values=(np.nan,)), "has no usable affine"),
    "inf_affine": (partial(write_patched, field="srow_x", layout="f", values=(np.inf,)), "has no usable affine"),
    "flat_affine": (
        partial(write_patched, field="srow_x", layout="12f", values=(1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0)),
        "has no usable affine",
    ),
    "sheared": (write_sheared, "degrees: resample it to an orthogonal grid"),
    "scaling": (partial(write_patched, field="scl_slope", layout="2f", values=(1e38, 0)), "correct the scaling"),
    "nan": (partial(write_with, np.nan), "has 1 voxels that are NaN or infinite"),
    "inf": (partial(write_with, -np.inf), "has 1 voxels that are NaN or infinite"),
    "constant": (partial(save, array=np.full(SHAPE, 5, np.int16)), "has no signal"),
    "two_d": (partial(save, array=voxels()[:, :, 0]), "a 3D volume is needed: join the slices"),
    "one_slice": (partial(save, array=voxels()[:, :, :1]), "a 3D volume is needed: join the slices"),
    "four_d": (partial(save, array=np.stack([voxels()] * 2, -1)), "a 3D volume is needed: split the series"),
    "zero_size": (partial(save, array=voxels()[:, :0]), "a 3D volume is needed: it is empty"),
    "colour": (partial(save, array=COLOUR), "is a colour image (RGB)"),
    "complex": (partial(save, array=voxels(np.complex64)), "has complex voxels: give the magnitude"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "forbidden": (write_forbidden, "may not be read (permission denied): change its permissions"),
}
# The label of a source case
LABELS = {
    "label_missing": (lambda path: None, "is missing: correct the path"),
    "label_shape": (partial(save, array=classes()[:-1]), "lies on another grid"),
    "label_shifted": (partial(save, array=classes(), affine=AFFINE + np.eye(4, k=3)), "lies on another grid"),
    "label_unknown": (partial(save, array=classes(odd=7)), "has label values 7 but only 0, 1, 2 are known"),
    "label_fraction": (partial(save, array=classes(odd=1.5)), "has label values 1.5 but only"),
    "label_negative": (partial(save, array=classes(odd=-1)), "has label values -1 but only"),
    "label_nan": (partial(save, array=classes(odd=np.nan)), "has 1 voxels that are NaN"),
    "label_empty": (partial(save, array=0 * classes()), "is an empty label (background alone)"),
    "label_cut": (partial(write_cut, end=0.6), "is damaged or truncated: copy it again"),
}
NAMES = {
    "../escaped": "can't name a file",
    "a/b": "can't name a file",
    "a\nb": "can't name a file",
    "-rf": "can't name",
}
SERIES = {
    "dicom_gap": "slices missing or unevenly spaced",
    "dicom_two": "holds 2 DICOM series",
    "dicom_cut": "is damaged, or a DICOM object without an image",
    "dicom_none": "holds no DICOM file",
}
GOOD = {"source_training": ["good1", "good2"], "target_training": ["good3", "good_dicom"]}


def less_privileged(largest_file=None):
    """What the child does before it runs: root, too, obeys file permissions then; and files can't grow further."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; 24 is PR_CAPBSET_DROP
        libc.prctl(24, capability, 0, 0, 0)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


def run(data_list, output, *words, largest_file=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(SCRIPT), *RECIPE, "--datalist", str(data_list), "--output_dir", str(output), *words]
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=False,
        timeout=300,
        preexec_fn=partial(less_privileged, largest_file),
    )


def run_here(data_list, output, *words):
    """As `run`, in this process: without the seconds that loading the libraries takes."""
    try:
        return prepare_script.main([*RECIPE, "--datalist", str(data_list), "--output_dir", str(output), *words])
    except SystemExit as error:
        return error.code


def obeys_permissions(folder):
    path = folder / "forbidden.txt"
    path.touch(mode=0)
    done = subprocess.run(["cat", path], capture_output=True, check=False, preexec_fn=less_privileged)
    return done.returncode != 0


def write_list(path, **sections):
    path.write_text(json.dumps(sections))
    return path


def target(folder, name, make=save):
    path = folder / f"{name}_hrT2.nii.gz"
    make(path)
    return {"case": name, "site": "ldn", "image": path.name}


def source(folder, name, make=partial(save, array=classes())):  # noqa: B008 - not changed
    save(folder / f"{name}_ceT1.nii.gz")
    make(folder / f"{name}_Label.nii.gz")
    return {"case": name, "site": "ldn", "image": f"{name}_ceT1.nii.gz", "label": f"{name}_Label.nii.gz"}


def series(folder, name, write_series):
    paths = write_series(folder / name, voxels(), AFFINE)
    if name == "dicom_gap":
        paths[3].unlink()
    elif name == "dicom_cut":
        paths[3].write_bytes(paths[3].read_bytes()[:-20])
    elif name == "dicom_none":
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    elif name == "dicom_two":
        for path in write_series(folder / "other", voxels(), AFFINE, uid="1.2.9"):
            path.rename(folder / name / f"other_{path.name}")
    return {"case": name, "image": name}


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


def report_of(output):
    return {entry["case"]: entry for entry in json.loads((output / "report.json").read_text())["cases"]}


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


@pytest.fixture
def scans(tmp_path):
    """A list of two good target scans."""
    return write_list(tmp_path / "datalist.json", target_training=[target(tmp_path, "a"), target(tmp_path, "b")])


def assert_nothing_begun(code, stderr, output, *parts):
    assert code == 2, stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("error: ")
    for part in parts:
        assert str(part) in stderr
    assert not output.is_dir() or not [path for path in output.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing: make it with"),
        ("case,site", "is not a JSON file"),
        ("[]", "is not a data list (no sections)"),
        ('{"label_map": {}}', "has no items in"),
        ('{"target_training": [{"case": "a"}]}', "item 0 has no 'image': add it"),
        ('{"target_training": [{"case": "a", "image": 7}]}', "item 0: 'image' is no text"),
        ('{"target_traning": [{"case": "a", "image": "a"}]}', "unknown section 'target_traning'"),
        ('{"label_map": {"1": 9}, "target_training": [{"case": "a", "image": "a"}]}', "to unknown classes [9]"),
    ],
)
def test_faulty_list(tmp_path, capsys, text, words):
    path = tmp_path / "datalist.json"
    if text is not None:
        path.write_text(text)
    code = run_here(path, tmp_path / "prepared")
    assert_nothing_begun(code, capsys.readouterr().err, tmp_path / "prepared", path, words)


def test_output_is_a_file(scans, tmp_path, capsys):
    (tmp_path / "prepared").write_text("hello")
    code = run_here(scans, tmp_path / "prepared")
    assert_nothing_begun(
        code, capsys.readouterr().err, tmp_path / "prepared", tmp_path / "prepared", "is a file, not a folder"
    )
    assert (tmp_path / "prepared").read_text() == "hello"


def test_output_may_not_be_written(scans, tmp_path):
    if not obeys_permissions(tmp_path):
        pytest.skip("this system lets the user write whatever the permissions")
    (tmp_path / "prepared").mkdir(mode=0o555)
    done = run(scans, tmp_path / "prepared")
    words = [tmp_path / "prepared", "may not be written", "give another --output_dir"]
    assert_nothing_begun(done.returncode, done.stderr, tmp_path / "prepared", *words)


def test_section_folder_may_not_be_written(scans, tmp_path):
    if not obeys_permissions(tmp_path):
        pytest.skip("this system lets the user write whatever the permissions")
    folder = tmp_path / "prepared" / "target_training"
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    done = run(scans, tmp_path / "prepared")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for entry in report_of(tmp_path / "prepared").values():
        assert entry["details"] is None
        assert str(folder) in entry["faults"][0]
        assert "change its permissions" in entry["faults"][0]
    assert list(folder.iterdir()) == []


def test_full_disk(tmp_path):
    """One volume doesn't fit: its write fails half-way (EFBIG by RLIMIT_FSIZE); the small one is done."""
    noise = np.random.RandomState(0).normal(size=(40, 40, 30)).astype(np.float32)
    items = [target(tmp_path, "small"), target(tmp_path, "large", partial(save, array=noise))]
    data_list, output = write_list(tmp_path / "datalist.json", target_training=items), tmp_path / "prepared"
    words = ["--set", "size=[40,40,-1]"]
    done = run(data_list, output, *words, largest_file=50_000)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = report_of(output)
    assert report["small"]["status"] == "done"
    assert report["large"]["details"] is None
    assert "is full" in report["large"]["faults"][0]
    assert str(output) in report["large"]["faults"][0]
    names = sorted(path.name for path in (output / "target_training").iterdir())
    assert names == ["small_hrT2.json", "small_hrT2.nii.gz"]
    assert len(json.loads((output / "datalist.json").read_text())["target_training"]) == 1
    assert run_here(data_list, output, *words) == 0  # with room again
    assert {case: entry["status"] for case, entry in report_of(output).items()} == {
        "small": "unchanged",
        "large": "done",
    }


def test_disk_without_room_for_anything(scans, tmp_path):
    done = run(scans, tmp_path / "prepared", largest_file=64)  # 32 bytes are for a semaphore of joblib's
    words = [tmp_path / "prepared", "can't be written (File too large): make room"]
    assert_nothing_begun(done.returncode, done.stderr, tmp_path / "prepared", *words)
