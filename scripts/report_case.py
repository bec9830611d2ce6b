r"""Write the report of one patient's scan: overlays, sizes, growth, Koos grade, flags (research use only).

    python scripts/report_case.py --scan scan.nii.gz --label out/scan_seg.nii.gz --date 2026-01-31 \
        --koos koos/scan_koos.json --prior_scan old.nii.gz --prior_label old_seg.nii.gz --prior_date 2025-01-20 \
        --output_dir report

Flags come from the <case>_seg.json beside the label, which the segmentation bundles write.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.report import Study, write_case_report


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", required=True, type=Path, metavar="FILE", help="the scan, NIfTI")
    parser.add_argument("--label", required=True, type=Path, metavar="FILE", help="its segmentation, on its grid")
    parser.add_argument("--date", type=date.fromisoformat, metavar="YYYY-MM-DD", help="date of the scan")
    parser.add_argument(
        "--parts", action="store_true", help="the labels are 1 extra-meatal VS, 2 intra-meatal VS, 3 cochlea"
    )
    parser.add_argument("--koos", type=Path, metavar="FILE", help="<case>_koos.json of the bundle koos-classifier")
    parser.add_argument("--prior_scan", type=Path, metavar="FILE", help="an earlier scan of the same patient")
    parser.add_argument("--prior_label", type=Path, metavar="FILE", help="its segmentation")
    parser.add_argument("--prior_date", type=date.fromisoformat, metavar="YYYY-MM-DD", help="its date")
    parser.add_argument("--model", metavar="TEXT", help="what to name as the model, e.g. the run that trained it")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="<case>_report.html and .pdf")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write the report."""
    arguments = parse_arguments(argv)
    study = Study(arguments.scan, arguments.label, arguments.date, arguments.parts)
    prior = None
    if arguments.prior_scan or arguments.prior_label or arguments.prior_date:
        if not (arguments.prior_scan and arguments.prior_label):
            raise InputError("an earlier scan needs both --prior_scan and --prior_label (and --prior_date)")
        prior = Study(arguments.prior_scan, arguments.prior_label, arguments.prior_date, arguments.parts)
    sources = {"model": arguments.model} if arguments.model else {}
    for path in write_case_report(study, arguments.output_dir, arguments.koos, prior, sources):
        print(path)


if __name__ == "__main__":
    exit_on_input_error(main)()
