"""Apply a finished run of a recipe to new hrT2 scans."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from crossmoda.errors import exit_on_input_error
from crossmoda.recipes import apply_run

EPILOG = """\
All members of what the recipe names as final predict, and are fused as in the run. Writes <case>_seg.nii.gz
(0 background, 1 VS, 2 cochlea; or 1 extra-, 2 intra-meatal VS, 3 cochlea) in each scan's own grid, <case>_seg.json
with volumes, entropy, agreement and flags, and <case>_report.html and .pdf for the clinic; if the recipe
grades, <case>_koos.json and grades.csv.

  predict.py runs/li2021 scan.nii.gz --output_dir out
  predict.py runs/li2021 scans/ dicom/series_a dicom/series_b --output_dir out
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RECIPE_RUN", help="--output_dir of a finished run_recipe.py")
    parser.add_argument(
        "scans", nargs="+", metavar="SCAN", help="NIfTI file, folder of such, or folder with one DICOM series"
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write to")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Predict; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = parse_arguments(argv)
    cases = apply_run(arguments.run, arguments.scans, arguments.output_dir)
    print(f"{len(cases)} segmented: {Path(arguments.output_dir).absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
