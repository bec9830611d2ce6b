"""Prepare scans as a paper does: prepared volumes, a sidecar each that says how to go back, and a new data list."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: each process computes with one thread

from crossmoda.errors import InputError, exit_on_input_error

EPILOG = """\
recipes: li2021, shin2021, chen2023, kang2022, han2022, choi2021, or a YAML file of your own made from one of them

  prepare.py --recipe li2021 --datalist datalist.json --output_dir prepared --jobs 8
  prepare.py --recipe li2021 --set roi_size=[256,128,96] ...      another number; --recipe li2021 --show lists all
  prepare.py --like prepared --datalist new.json ...              the same for new scans: nothing is learned anew

Run again, it does what is missing or has changed (contents of the files, settings); stop it whenever you like.
Exit code: 0 all cases prepared; 1 some were faulty (OUTPUT_DIR/report.json has them), the others are prepared;
2 nothing could be begun.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", metavar="NAME", help="which preprocessing")
    parser.add_argument("--datalist", metavar="FILE", help="the list of raw scans, from make_datalist.py")
    parser.add_argument("--output_dir", metavar="DIR", help="folder of the prepared volumes")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes of one thread each (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")
    parser.add_argument("--like", metavar="DIR", help="take recipe, region and references from an earlier preparation")
    parser.add_argument("--show", action="store_true", help="print the recipe's settings and leave")
    return parser.parse_args(argv)


def parse_changes(entries: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE; values are YAML: numbers, lists, null, true."""
    changes = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            raise InputError(f"--set {entry}: write NAME=VALUE, e.g. --set roi_size=[256,128,96]")
        try:
            changes[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {entry}: the value is not YAML, e.g. 3, [1,2,3], null, true") from None
    return changes


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Prepare a data list."""
    arguments = parse_arguments(argv)
    if bool(arguments.recipe) == bool(arguments.like):
        raise InputError("give either --recipe NAME or --like DIR")
    changes = parse_changes(arguments.set)
    if arguments.like and changes:
        raise InputError("--like takes the settings as they were: leave --set out, or give --recipe")
    from crossmoda.preparation import Recipe, prepare

    recipe = Recipe.load(arguments.recipe, changes) if arguments.recipe else Recipe.read(arguments.like)
    if arguments.show:
        print(yaml.safe_dump(recipe.settings, sort_keys=False, default_flow_style=None), end="")
        return 0
    if not arguments.datalist or not arguments.output_dir:
        raise InputError("give --datalist FILE and --output_dir DIR")
    if arguments.jobs < 1:
        raise InputError(f"--jobs {arguments.jobs}: give 1 or more")
    summary = prepare(arguments.datalist, recipe, arguments.output_dir, arguments.jobs, like=arguments.like)
    for note in summary.notes:
        print(note)
    for outcome in summary.outcomes:
        for line in outcome.warnings:
            print(f"warning: {outcome.case}: {line}", file=sys.stderr)
        for line in outcome.faults:
            print(f"error: {line}", file=sys.stderr)
    counts = summary.counts
    done = ", ".join(f"{counts[status]} {status}" for status in ("done", "unchanged", "faulty"))
    print(f"{len(summary.outcomes)} cases: {done}. Report: {summary.report}")
    if summary.data_list:
        print(f"New data list: {summary.data_list}")
    return 1 if counts["faulty"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; run again to go on", file=sys.stderr)
        sys.exit(130)
