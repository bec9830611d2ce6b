"""Finished runs side by side: numbers from their files, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crossmoda.errors import InputError
from crossmoda.report.run_table import HEADER, run_table

FOLDERS = {"rounds": "self_training/rounds/predictions", "net": "segmentation/net/predictions"}
SCRIPT = Path(__file__).parents[2] / "scripts" / "tabulate_runs.py"


def write_run(folder, cases=2, gap=(0.9, 0.751), **changes):
    """Files of a finished run with self-training and grades, numbers known."""
    config = {
        "name": folder.name,
        "seed": 0,
        "phantom": {},
        "translators": {"cut": {"overlays": []}},
        "systems": {"net": {"bundle": "b", "images": "cut", "overlays": []}},
        "self_training": {"rounds": {"translated": ["cut"], "members": ["net"]}},
        "koos": {"encoder": "cut", "masks": "rounds"},
        "final": "rounds",
        **changes,
    }
    measures = {
        "n": cases,
        "dice": {"VS": {"mean": 0.8}, "cochlea": {"mean": 0.7}},
        "assd": {"VS": {"mean": 0.5}, "cochlea": {"mean": 0.25}},
    }
    system = {"all": measures, "gap_closed": {"dice": dict(zip(("VS", "cochlea"), gap, strict=True))}}
    judged = {"rounds": [{"dice": {"VS": 0.6, "cochlea": 0.5}}, {"dice": {"VS": 0.9, "cochlea": 0.9}}]}
    files = {
        "recipe.yaml": yaml.safe_dump(config),
        "report/results.json": json.dumps({"systems": {config["final"]: system}}),
        "self_training/rounds/evaluation/rounds.json": json.dumps(judged),
        "koos/msf_koos_net/seed0/judged/metrics.json": json.dumps({"all": {"ma_mae": 0.25}}),
        f"{FOLDERS[config['final']]}/metrics.csv": "".join(
            ["case,dice_VS\n", *[f"case_{number},0.8\n" for number in range(cases)]]
        ),
        "logs/one.tsv": "s\tcpu_time\n9\t60.0\n",
        "logs/two.tsv": "s\tcpu_time\n9\t30.0\n",
        "logs/short.tsv": "s\tcpu_time\n0.1\tNA\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_row_a_run(tmp_path):
    plain = write_run(tmp_path / "plain", self_training={}, koos={}, final="net")
    table = run_table([write_run(tmp_path / "whole"), plain])
    assert table.title == "2 hidden scans"
    whole = dict(zip(HEADER, table.rows[0], strict=True))
    assert whole == {
        "recipe": "whole",
        "VS Dice": "0.800",
        "cochlea Dice": "0.700",
        "VS ASSD (mm)": "0.50",
        "cochlea ASSD (mm)": "0.25",
        "gap closed, VS": "90%",
        "gap closed, cochlea": "75%",
        "before self-training, VS / cochlea Dice": "0.600 / 0.500",
        "Koos MA-MAE": "0.250",
        "CPU min": "2",
    }
    assert table.rows[1][-3:] == ["-", "-", "2"]


def test_runs_that_do_not_fit_together(tmp_path):
    with pytest.raises(InputError, match=r"two was judged on other cases than .*one: give runs on the same data"):
        run_table([write_run(tmp_path / "one"), write_run(tmp_path / "two", cases=3)])


def test_a_run_without_bounds(tmp_path):
    (row,) = run_table([write_run(tmp_path / "one", gap=(None, None))]).rows
    assert row[5:7] == ["-", "-"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("report/results.json", "{"),
        ("koos/msf_koos_net/seed0/judged/metrics.json", "{"),
        ("logs/one.tsv", "s\tcpu_time\n1\tlong\n"),
    ],
)
def test_a_broken_file_is_one_line(name, text, tmp_path):
    run = write_run(tmp_path / "one")
    (run / name).write_text(text)
    with pytest.raises(InputError, match="one is no finished run with a truth"):
        run_table([run])


def test_command(tmp_path):
    run, out = write_run(tmp_path / "whole"), tmp_path / "table.md"

    def command(*words):
        return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)

    done = command(run, "--output", out)
    assert done.returncode == 0, done.stderr
    assert "| whole | 0.800 | 0.700 |" in out.read_text()
    (run / "report/results.json").unlink()
    done = command(run)
    assert done.returncode == 2
    assert "is no finished run with a truth" in done.stderr
    assert "Traceback" not in done.stderr
