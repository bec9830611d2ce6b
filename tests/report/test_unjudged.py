"""The report of a run without a truth."""

import json

import pytest

from crossmoda.errors import InputError
from crossmoda.report import ReportInput, write_unjudged_report

VOLUMES = {"a": (1.0, 0.2), "b": (3.0, 0.12)}


@pytest.fixture
def run(tmp_path):
    """Two scans, found by two systems; the second finds half as much and flags one."""
    items = [{"case": case, "site": "ldn", "image": f"{case}.nii.gz"} for case in VOLUMES]
    (tmp_path / "list.json").write_text(json.dumps({"target_validation": items}))
    for name, factor in (("first", 1.0), ("second", 0.5)):
        folder = tmp_path / name / "predictions"
        folder.mkdir(parents=True)
        for case, (tumour, cochlea) in VOLUMES.items():
            content = {
                "case": case,
                "volumes_ml": {"VS": tumour * factor, "cochlea": cochlea * factor},
                "entropy": 0.2 if case == "a" else 0.4,
                "agreement": None if name == "first" else {"VS": 0.75, "cochlea": 0.5},
                "flags": ["unsure"] if (name, case) == ("second", "b") else [],
            }
            (folder / f"{case}_seg.json").write_text(json.dumps(content))
    return tmp_path


def report_of(run, **changes):
    values = {"systems": {name: run / name for name in ("first", "second")}, "data_list": run / "list.json"}
    return ReportInput(**values | changes)


def test_tables_by_hand(run):
    text = write_unjudged_report(report_of(run, focus="second"), run / "report")
    first, second = (line.split() for line in text.splitlines()[-2:])
    assert first == ["first", "2.00", "0.16", "0.30", "0"]
    assert second == ["second", "1.00", "0.08", "0.30", "1"]
    markdown = (run / "report" / "results.md").read_text(encoding="utf-8")
    assert "| b | 1.50 | 0.06 | 0.40 | 0.75 | 0.50 | unsure |" in markdown
    assert "| a | 0.50 | 0.10 | 0.20 | 0.75 | 0.50 | - |" in markdown
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "not judged" in page
    assert "Dice" not in page
    assert json.loads((run / "report" / "results.json").read_text())["focus"] == "second"


def test_faults_are_one_line(run):
    with pytest.raises(InputError, match="'third' is none of the systems first, second"):
        write_unjudged_report(report_of(run, focus="third"), run / "report")
    (run / "first" / "predictions" / "a_seg.json").unlink()
    with pytest.raises(InputError, match=r"has no a_seg\.json"):
        write_unjudged_report(report_of(run), run / "report")
