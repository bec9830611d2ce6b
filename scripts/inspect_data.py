"""Look at a data list before training: one quality page of all its scans, with faults and outliers named."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.report import inspect, write_inspection

DESCRIPTION = """\
Look at a data list before training. Writes one self-contained page, and beside it a .csv with a row a scan and a .json:
geometry, intensities, label volumes, pictures at the labels, and the outliers with the reason in words.

  inspect_data.py datalist.json --output runs/inspection --jobs 2

Every file is read whole. Faulty files are listed at the top of the page, which is made of the others; the exit code is
then 1. Outliers alone leave it 0. It is 2 if there is nothing to inspect.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", metavar="DATALIST", help="made by make_datalist.py or prepare.py")
    parser.add_argument(
        "--output",
        metavar="DIR or FILE",
        help="folder for inspection.html, .csv and .json, or the .html file (default: inspection, beside the list)",
    )
    jobs = min(os.cpu_count() or 1, 4)
    parser.add_argument("--jobs", type=int, default=jobs, metavar="J", help="processes, a scan each (%(default)s)")
    return parser.parse_args(argv)


def page_path(output: str | None, datalist: str) -> Path:
    """The page's file; its folder is made, so that a wrong one is told before the work."""
    path = Path(output or Path(datalist).absolute().parent / "inspection")
    page = path if path.suffix == ".html" else path / "inspection.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{page.parent} can't be made ({error.strerror}): give another --output") from None
    if not os.access(page.parent, os.W_OK):
        raise InputError(f"{page.parent} can't be written to: give another --output")
    return page


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Inspect the list; returns the exit code."""
    arguments = parse_arguments(argv)
    if arguments.jobs < 1:
        raise InputError(f"--jobs is {arguments.jobs}: give 1 or more")
    if not Path(arguments.datalist).is_file():
        raise InputError(f"{arguments.datalist} is missing: make it with scripts/make_datalist.py")
    page = page_path(arguments.output, arguments.datalist)
    inspection = inspect(arguments.datalist, arguments.jobs)
    write_inspection(inspection, arguments.datalist, page)
    print(inspection.summary())
    print(f"\nThe page: {page.absolute()}")
    return 1 if inspection.faults else 0


if __name__ == "__main__":
    sys.exit(main())
