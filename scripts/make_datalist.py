"""Make datalist.json, the list of scans that every stage reads, of a crossMoDA release or any folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from crossmoda.data import SECTIONS, find_by_patterns, find_faults, find_release, write_datalist
from crossmoda.data.releases import Release, attach_truth
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES

DESCRIPTION = """\
Make datalist.json, the list of scans that every stage reads.

The layouts of the 2021, 2022 and 2023 releases are recognised by themselves. For any other folder give patterns,
relative to ROOT, with {case} where the case's name stands ({site} and * may be used too):

  make_datalist.py /data --source_images 'T1/{case}_T1.nii.gz' --source_labels 'T1/{case}_mask.nii.gz' \\
                         --target_images 'T2/{case}.nii.gz'

A pattern may also match folders with one DICOM series each ('T2/{case}'); scripts/prepare.py converts them.

Every file is read: missing, damaged, not 3D, not finite, unknown label values, or a label on another grid than its
scan. All faults are listed, one line each; nothing is written then, and the exit code is 2.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="folder that holds the scans")
    parser.add_argument("--output", metavar="FILE", help="the list to write (default: ROOT/datalist.json)")
    parser.add_argument(
        "--truth",
        metavar="DIR",
        help="attach <case>_Label.nii.gz found below DIR to the target scans: for the oracle and for evaluation"
        " only, or for labels that you own; adaptation must not see them",
    )
    for section, name in zip(SECTIONS, ("source", "target", "validation"), strict=True):
        parser.add_argument(f"--{name}_images", metavar="PATTERN", help=f"images of section {section}")
        parser.add_argument(f"--{name}_labels", metavar="PATTERN", help=f"labels of section {section}")
    parser.add_argument("--check", choices=("full", "header"), default="full", help="header: fast, reads no voxels")
    parser.add_argument("--skip_faulty", action="store_true", help="write the list without the faulty cases")
    parser.add_argument("--threads", type=int, help="files read at a time (default: one a core, at most 8)")
    return parser.parse_args(argv)


def find(arguments: argparse.Namespace) -> Release:
    """Find the scans as the command line says."""
    names = dict(zip(SECTIONS, ("source", "target", "validation"), strict=True))
    images = {section: getattr(arguments, f"{name}_images") for section, name in names.items()}
    labels = {section: getattr(arguments, f"{name}_labels") for section, name in names.items()}
    images = {section: pattern for section, pattern in images.items() if pattern}
    labels = {section: pattern for section, pattern in labels.items() if pattern}
    for section in labels.keys() - images.keys():
        raise InputError(f"--{names[section]}_labels needs --{names[section]}_images as well")
    release = find_by_patterns(arguments.root, images, labels) if images else find_release(arguments.root)
    if arguments.truth:
        attach_truth(release, arguments.truth)
    return release


def validate(release: Release, arguments: argparse.Namespace) -> list[str]:
    """List every fault and take the faulty items out of the release."""
    faults = list(release.faults)
    allowed = tuple(release.label_map or CLASS_NAMES)
    for section, items in release.sections.items():
        labelled = section == "source_training" or any("label" in item for item in items)
        found = find_faults(items, False, arguments.check, allowed, threads=arguments.threads, allow_dicom=True)
        faults += [line for lines in found for line in lines]
        cases: set[str] = set()
        good = []
        for item, lines in zip(items, found, strict=True):
            if not lines and ("label" in item or not labelled) and item["case"] not in cases:
                good.append(item)
            cases.add(item["case"])
        release.sections[section] = good
    return faults


def summarise(release: Release) -> None:
    """Print what the list holds."""
    for section, items in release.sections.items():
        sites = ", ".join(f"{count} {site or 'unnamed site'}" for site, count in sorted(count_sites(items).items()))
        labels = sum("label" in item for item in items)
        print(f"{section}: {len(items)} cases" + (f" ({sites}), {labels} with label" if items else ""))


def count_sites(items: list[dict]) -> Counter:
    """Cases per site."""
    return Counter(item["site"] for item in items)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Make the list; returns the exit code."""
    arguments = parse_arguments(argv)
    output = Path(arguments.output or Path(arguments.root) / "datalist.json")
    release = find(arguments)
    faults = validate(release, arguments)
    for fault in faults:
        print(f"{'left out' if arguments.skip_faulty else 'error'}: {fault}", file=sys.stderr)
    if faults and not arguments.skip_faulty:
        print(f"{len(faults)} fault(s), nothing written; --skip_faulty writes the list without the faulty cases")
        return 2
    if not any(release.sections.values()):
        raise InputError(f"no case under {arguments.root} is free of faults: mend the files named above")
    write_datalist(release.sections, output, release.label_map)
    summarise(release)
    print(f"Wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
