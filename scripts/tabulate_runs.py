"""Table of finished runs of recipes side by side: Dice, ASSD, share of the gap closed, Koos grades, time."""

from __future__ import annotations

import argparse
from pathlib import Path

from crossmoda.data import write_text
from crossmoda.errors import exit_on_input_error
from crossmoda.report.run_table import run_table


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="--output_dir of finished run_recipe.py, with a truth")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown file; the table is printed in any case")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    arguments = parse_arguments(argv)
    table = run_table(arguments.runs)
    if arguments.output:
        write_text(table.markdown() + "\n", arguments.output)
    print(table.text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
