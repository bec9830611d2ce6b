"""Steps that are done once, and bundle runs in processes of their own."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from crossmoda.errors import InputError
from crossmoda.selftraining import AtLeast
from crossmoda.selftraining.steps import Steps, _reason, describe, digest, run_bundle


def test_a_step_is_done_once(tmp_path):
    steps, done = Steps(progress=False), []
    for _ in range(2):
        key = steps.run("a", tmp_path / "a", {"x": 1}, lambda: done.append(1))
    assert done == [1]
    assert key == digest({"x": 1})


def test_other_settings_start_anew_and_without_the_old_results(tmp_path):
    steps, folder = Steps(progress=False), tmp_path / "a"
    steps.run("a", folder, {"x": 1}, lambda: (folder / "old").write_text(""))
    steps.run("a", folder, {"x": 2}, lambda: (folder / "new").write_text(""))
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_step_that_stopped_keeps_what_it_had(tmp_path):
    steps, folder = Steps(progress=False), tmp_path / "a"

    def stop():
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run("a", folder, 1, stop)
    seen = []
    steps.run("a", folder, 1, lambda: seen.extend(path.name for path in folder.iterdir()))
    assert seen == ["half"]
    steps.run("a", folder, 1, lambda: seen.append("again"))
    assert seen == ["half"]


def test_results_that_were_deleted_are_made_again(tmp_path):
    steps, folder, done = Steps(progress=False), tmp_path / "a", []
    for _ in range(2):
        steps.run("a", folder, 1, lambda: done.append(1))
        folder.rmdir()
    assert done == [1, 1]


def test_mark_goes_before_the_results_of_other_settings(tmp_path, monkeypatch):
    steps, folder, done = Steps(progress=False), tmp_path / "a", []
    steps.run("a", folder, 1, lambda: (folder / "old").write_text(""))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            steps.run("a", folder, 2, lambda: None)
    steps.run("a", folder, 1, lambda: done.extend(folder.iterdir()) or done.append("again"))
    assert done == ["again"]


def test_objects_are_described_by_their_settings():
    first, second = (describe([AtLeast(["entropy"], limit)]) for limit in (0.1, 0.2))
    assert first == [{"AtLeast": {"names": ["entropy"], "minimum": 0.1}}]
    assert digest(first) != digest(second)


def config(folder: Path, expression: str) -> str:
    path = folder / "config.json"
    imports = ["$import pathlib", "$import sys"]
    path.write_text(json.dumps({"imports": imports, "value": None, "run": [expression]}))
    return str(path)


def test_bundle_run_passes_values_as_they_are(tmp_path):
    target = str(tmp_path / "a,b")  # fire would make a tuple of it
    file = config(tmp_path, "$pathlib.Path(@value).write_text('x')")
    run_bundle("step", [file], {"value": target}, tmp_path / "logs" / "step.log")
    assert Path(target).read_text() == "x"
    assert (tmp_path / "logs" / "step.log").is_file()


def test_failure_is_one_line_with_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    file = config(tmp_path, "$print('error: the scan is broken', flush=True) or sys.exit(2)")
    with pytest.raises(InputError) as raised:
        run_bundle("round 1, training", [file], {}, tmp_path / "step.log")
    text = str(raised.value)
    assert "\n" not in text
    assert text == f"round 1, training failed with exit code 2 (the scan is broken): see {tmp_path / 'step.log'}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("error: a.pt is missing", "a.pt is missing"),
        ("crossmoda.errors.InputError: a.pt is missing", "InputError: a.pt is missing"),
        ("ValueError: no", "ValueError: no"),
        ("RuntimeError: Failed to evaluate ConfigExpression:", None),
        ("Traceback (most recent call last):", None),
        ("2026-01-01 - ERROR - Current run is terminating", None),
    ],
)
def test_reasons_of_failures(line, reason):
    assert _reason(line) == reason
