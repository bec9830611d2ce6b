"""Judge systems against their bounds: a table, pictures, and one self-contained HTML page."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.report import ReportInput, write_report, write_unjudged_report
from crossmoda.report.grade_table import grade_table, read_judgement
from crossmoda.report.tables import Table
from crossmoda.selftraining.evaluation import read_rounds, rounds_table

DESCRIPTION = """\
Judge systems against their bounds. Writes index.html (self-contained), results.md, results.json and pictures/*.png,
and prints the main table.

  report.py --system source-only=runs/a --system adapted=runs/b --system oracle=runs/c \\
            --source_only source-only --oracle oracle --data_list oracle.json \\
            --translation cyclegan=runs/translation/cyclegan/volumes --output runs/report
"""


def named(entries: list[str] | None, option: str) -> dict[str, str]:
    """Read NAME=VALUE entries."""
    pairs = {}
    for entry in entries or []:
        name, separator, value = entry.partition("=")
        if not (name and separator and value):
            raise InputError(f"{option} {entry}: write it as NAME=VALUE")
        if name in pairs:
            raise InputError(f"{option} {name} is given twice: give each name once")
        pairs[name] = value
    return pairs


def further_tables(grades: dict[str, str], rounds: dict[str, str]) -> list[Table]:
    """The Koos methods side by side, and the rounds of each self-training."""
    judgements = {name: [read_judgement(folder) for folder in folders.split(",")] for name, folders in grades.items()}
    tables = [grade_table(judgements)] if judgements else []
    for name, path in rounds.items():
        table = rounds_table(read_rounds(path))
        tables.append(replace(table, title=f"{name}: {table.title}"))
    return tables


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--system",
        action="append",
        metavar="NAME=DIR",
        help="a system and the folder of its metrics.csv and <case>_seg.nii.gz (itself or its 'predictions');"
        " repeat; the tables keep the order",
    )
    parser.add_argument("--source_only", metavar="NAME", help="which system is the lower bound")
    parser.add_argument("--oracle", metavar="NAME", help="which system is the upper bound")
    parser.add_argument(
        "--translation", action="append", metavar="NAME=DIR", help="a translator and the folder of its volumes; repeat"
    )
    parser.add_argument("--data_list", metavar="FILE", help="data list with the truth; without it no scans are shown")
    parser.add_argument("--section", default="target_validation", help="section that was evaluated (%(default)s)")
    parser.add_argument("--focus", metavar="NAME", help="system whose cases are shown (default: the best non-bound)")
    parser.add_argument(
        "--unjudged", action="store_true", help="there is no truth: show what was found, without metrics and bounds"
    )
    parser.add_argument("--title", default="crossmoda report")
    parser.add_argument("--note", default="", help="a sentence for the top, e.g. that the scans are of a phantom")
    parser.add_argument(
        "--fact", action="append", metavar="NAME=VALUE", help="a fact about the run, e.g. seed=0; repeat"
    )
    parser.add_argument(
        "--grades",
        action="append",
        metavar="NAME=DIR[,DIR...]",
        help="a Koos method and the folders of its judged grades, one a seed; repeat",
    )
    parser.add_argument(
        "--rounds", action="append", metavar="NAME=FILE", help="a self-training and its rounds.json; repeat"
    )
    parser.add_argument(
        "--link", action="append", metavar="TEXT=ADDRESS", help="a link for the top, relative to the page; repeat"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    arguments = parse_arguments(argv)
    report = ReportInput(
        systems=named(arguments.system, "--system"),
        source_only=arguments.source_only,
        oracle=arguments.oracle,
        translations=named(arguments.translation, "--translation"),
        data_list=arguments.data_list,
        section=arguments.section,
        focus=arguments.focus,
        title=arguments.title,
        note=arguments.note,
        facts=named(arguments.fact, "--fact"),
        tables=further_tables(named(arguments.grades, "--grades"), named(arguments.rounds, "--rounds")),
        links=named(arguments.link, "--link"),
    )
    print((write_unjudged_report if arguments.unjudged else write_report)(report, arguments.output))
    print(f"\nThe whole report: {Path(arguments.output).absolute() / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
