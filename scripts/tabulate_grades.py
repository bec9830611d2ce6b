"""Table of Koos methods side by side, from what evaluate.yaml wrote: mean and spread over seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.report.grade_table import grade_table, read_judgement


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--method",
        action="append",
        required=True,
        metavar="NAME=DIR[,DIR...]",
        help="a method and the folders with its metrics.json, one a seed; may be given several times",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown file; it is printed in any case")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    arguments = parse_arguments(argv)
    judgements = {}
    for text in arguments.method:
        name, _, folders = text.partition("=")
        if not name or not folders:
            raise InputError(f"--method {text}: give NAME=DIR[,DIR...]")
        judgements[name] = [read_judgement(folder) for folder in folders.split(",")]
    table = grade_table(judgements)
    if arguments.output:
        write_text(table.markdown() + "\n", arguments.output)
    print(table.text())


if __name__ == "__main__":
    exit_on_input_error(main)()
