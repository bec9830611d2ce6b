"""Compare label maps with the truth: Dice and ASSD of each case, in mm, in metrics.csv and summary.json beside them."""

from __future__ import annotations

import argparse
import sys

from crossmoda.errors import exit_on_input_error


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", metavar="DIR", help="folder with <case>_seg.nii.gz, in the scans' own grid")
    parser.add_argument("--data_list", required=True, metavar="FILE", help="data list with the true labels")
    parser.add_argument("--section", default="target_validation", help="section of the data list (%(default)s)")
    parser.add_argument(
        "--parts", action="store_true", help="predictions hold extra-meatal VS 1, intra-meatal VS 2, cochlea 3"
    )
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Compare; returns the exit code."""
    arguments = parse_arguments(argv)
    from crossmoda.labels import LABELS_2023
    from crossmoda.metrics import evaluate

    parts = {label: label for label in (0, *LABELS_2023)} if arguments.parts else None
    summary = evaluate(arguments.predictions, arguments.data_list, arguments.section, part_map=parts)
    dice = {name: values["mean"] for name, values in summary["all"]["dice"].items()}
    print(", ".join(f"{name} Dice {value:.3f}" for name, value in dice.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
