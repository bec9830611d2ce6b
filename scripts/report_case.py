r"""Write the report of one patient's scan: overlays, sizes, growth, Koos grade, flags (research use only).

    python scripts/report_case.py --scan scan.nii.gz --label out/scan_seg.nii.gz --date 2026-01-31 \
        --koos koos/scan_koos.json --prior_scan old.nii.gz --prior_label old_seg.nii.gz --prior_date 2025-01-20 \
        --output_dir report

Flags come from the <case>_seg.json beside the label, which the segmentation bundles write. All scans of a data list at
once, with folders that hold <case>_seg.nii.gz and <case>_koos.json:

    python scripts/report_case.py --data_list datalist.json --section target_validation --label out --koos koos \
        --output_dir reports
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from crossmoda.data import load_datalist
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.recipes import sources_of
from crossmoda.report import Study, write_case_report, write_case_reports


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scans = parser.add_mutually_exclusive_group(required=True)
    scans.add_argument("--scan", type=Path, metavar="FILE", help="the scan, NIfTI")
    scans.add_argument("--data_list", type=Path, metavar="FILE", help="data list: a report of each of its scans")
    parser.add_argument("--section", default="target_validation", help="of the data list (%(default)s)")
    parser.add_argument(
        "--label", required=True, type=Path, metavar="PATH", help="the scan's segmentation, on its grid; or a folder"
    )
    parser.add_argument("--date", type=date.fromisoformat, metavar="YYYY-MM-DD", help="date of the scan")
    parser.add_argument(
        "--parts", action="store_true", help="the labels are 1 extra-meatal VS, 2 intra-meatal VS, 3 cochlea"
    )
    parser.add_argument(
        "--koos", type=Path, metavar="PATH", help="<case>_koos.json of the bundle koos-classifier; or a folder"
    )
    parser.add_argument("--prior_scan", type=Path, metavar="FILE", help="an earlier scan of the same patient")
    parser.add_argument("--prior_label", type=Path, metavar="FILE", help="its segmentation")
    parser.add_argument("--prior_date", type=date.fromisoformat, metavar="YYYY-MM-DD", help="its date")
    parser.add_argument("--model", metavar="TEXT", help="what to name as the model, e.g. the run that trained it")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="FILE", help="model.pt files or an ensemble.json: for a checksum"
    )
    parser.add_argument("--training_data", metavar="FILE", help="data list that they were trained on: likewise")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="<case>_report.html and .pdf")
    return parser.parse_args(argv)


def write_section(arguments: argparse.Namespace, sources: dict[str, str]) -> None:
    """Write the reports of all scans of a data list's section."""
    one = [option for option in ("date", "prior_scan", "prior_label", "prior_date") if getattr(arguments, option)]
    if one:
        raise InputError(f"--{one[0]} is of one scan: give --scan instead of --data_list")
    for folder, option in ((arguments.label, "label"), (arguments.koos, "koos")):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is no folder: with --data_list --{option} is a folder")
    items = load_datalist(arguments.data_list, arguments.section, check="header", progress=False)
    pages = write_case_reports(items, arguments.label, arguments.output_dir, arguments.koos, arguments.parts, sources)
    print(f"{len(pages)} reports: {arguments.output_dir.absolute()}")


def main(argv: list[str] | None = None) -> None:
    """Write the report."""
    arguments = parse_arguments(argv)
    sources = {"model": arguments.model} if arguments.model else {}
    sources |= sources_of(arguments.weights, arguments.training_data)
    if arguments.data_list:
        write_section(arguments, sources)
        return
    study = Study(arguments.scan, arguments.label, arguments.date, arguments.parts)
    prior = None
    if arguments.prior_scan or arguments.prior_label or arguments.prior_date:
        if not (arguments.prior_scan and arguments.prior_label):
            raise InputError("an earlier scan needs both --prior_scan and --prior_label (and --prior_date)")
        prior = Study(arguments.prior_scan, arguments.prior_label, arguments.prior_date, arguments.parts)
    for path in write_case_report(study, arguments.output_dir, arguments.koos, prior, sources):
        print(path)


if __name__ == "__main__":
    exit_on_input_error(main)()
