"""Fuse the results of several networks, or several trainings of one, into one label map a scan."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from crossmoda.errors import exit_on_input_error
from crossmoda.fusion import RULES, fuse_members
from crossmoda.postprocessing import RULES as POSTPROCESSING_RULES

DESCRIPTION = """\
Fuse the results of several networks, or several trainings of one, into one label map a scan: <case>_seg.nii.gz in the
scan's grid, and <case>_seg.json with volumes, entropy, the members' agreement and flags. The members are output
folders of the segmentation bundles' inference.yaml or evaluate.yaml. The rule

  mean        takes the most probable class by the mean probability (--save_probabilities True in the inferences)
  majority    the class that most members mark
  union       every class that any member marks (Li 2021)
  staple      STAPLE, which weighs the members by how good it finds them
  FILE.json   what scripts/choose_ensemble.py chose

  fuse.py --members runs/2.5d runs/3d --rule mean --output_dir runs/ensemble
  fuse.py --members a=runs/2.5d b=runs/3d --rule choice.json --output_dir runs/best \\
          --data_list datalist.json --section target_validation --postprocessing largest_vs
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", required=True, metavar="DIR", help="output folders, or NAME=DIR")
    parser.add_argument("--rule", required=True, metavar="RULE", help=f"{', '.join(RULES)}, or a choice's JSON")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--postprocessing",
        nargs="*",
        default=[],
        metavar="RULE",
        help=f"any of {', '.join(POSTPROCESSING_RULES)}, in order, or the JSON of scripts/choose_postprocessing.py",
    )
    parser.add_argument(
        "--data_list", metavar="FILE", help="fuse its cases alone; with labels also writes metrics.csv and summary.json"
    )
    parser.add_argument("--section", default="target_validation", help="section of the data list (%(default)s)")
    parser.add_argument(
        "--num_classes", type=int, default=3, help="with background, if members have no probabilities (%(default)s)"
    )
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Fuse; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments(argv)
    postprocessing = arguments.postprocessing
    if len(postprocessing) == 1 and postprocessing[0].endswith(".json"):
        postprocessing = postprocessing[0]
    cases = fuse_members(
        arguments.members,
        arguments.rule,
        arguments.output_dir,
        postprocessing,
        arguments.data_list,
        arguments.section,
        arguments.num_classes,
    )
    print(f"{len(cases)} fused: {Path(arguments.output_dir).absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
