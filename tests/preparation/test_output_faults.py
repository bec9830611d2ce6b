"""What stops `scripts/prepare.py` as a whole: an unusable list, and an output folder without room or permission."""

import json
from functools import partial

import numpy as np
import pytest
from bad_scans import save, target
from prepare_command import obeys_permissions, report_of, run, run_here, write_list


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
