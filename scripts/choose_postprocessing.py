"""Choose the post-processing rules that help, by cross-validation predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crossmoda.data import label_map, load_datalist
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.fusion import classes_of
from crossmoda.labels import CLASS_NAMES, MERGE_2023, NUM_CLASSES
from crossmoda.postprocessing import RULES, choose_rules, write_choice

DESCRIPTION = f"""\
Try post-processing rules ({", ".join(RULES)}) on predictions whose truth is known, one after the other, and keep those
that raise the mean Dice (nnU-Net's way). The predictions must be of cross-validation and without post-processing
(--postprocessing_rules [] in the inference). The JSON is then what inference.yaml takes as --postprocessing_rules, and
scripts/fuse.py as --postprocessing:

  choose_postprocessing.py --predictions cv/2.5d --data_list datalist.json --output rules.json
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, metavar="DIR", help="folder of <case>_seg.nii.gz")
    parser.add_argument("--data_list", required=True, metavar="FILE", help="data list with the labels")
    parser.add_argument("--section", default="source_training", help="its section (%(default)s)")
    parser.add_argument("--rules", nargs="+", default=list(RULES), metavar="RULE", help="those to try (all), in order")
    parser.add_argument("--num_classes", type=int, default=NUM_CLASSES, help="with background (%(default)s)")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON to write")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Choose; returns the exit code."""
    arguments = parse_arguments(argv)
    items = load_datalist(arguments.data_list, arguments.section, require_label=True, check="header", progress=False)
    for item in items:
        prediction = Path(arguments.predictions).absolute() / f"{item['case']}_seg.nii.gz"
        if not prediction.is_file():
            raise InputError(f"{prediction} is missing: run the inference on section {arguments.section}")
        item["prediction"] = str(prediction)
    own = MERGE_2023 if arguments.num_classes > NUM_CLASSES else {label: label for label in CLASS_NAMES}
    maps = own, label_map(arguments.data_list)
    choice = choose_rules(items, maps, classes_of(arguments.num_classes), arguments.rules)
    write_choice(choice, arguments.output)
    print(f"without: mean Dice {choice['dice_before']:.4f} ({choice['cases']} cases)")
    for entry in choice["tried"]:
        print(f"{entry['rule']}: {entry['dice']:.4f}{', kept' if entry['kept'] else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
