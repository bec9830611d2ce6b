"""Choose the best single network or pair of networks by their cross-validation predictions."""

from __future__ import annotations

import argparse
import sys

from crossmoda.errors import exit_on_input_error
from crossmoda.fusion import choose_members, write_choice

DESCRIPTION = """\
Choose the single network, or the pair by mean probability, of highest mean Dice of VS and cochlea (nnU-Net's rule).
The predictions must be of cross-validation: each scan segmented by a network not trained on it, with
--save_probabilities True. The JSON is then a --rule of scripts/fuse.py, whose members have the same names:

  choose_ensemble.py --members a=cv/2.5d b=cv/3d c=cv/nnunet --data_list datalist.json --output choice.json
  fuse.py --members a=test/2.5d b=test/3d c=test/nnunet --rule choice.json --output_dir test/best
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", required=True, metavar="DIR", help="folders, or NAME=DIR")
    parser.add_argument("--data_list", required=True, metavar="FILE", help="data list with the labels")
    parser.add_argument("--section", default="source_training", help="its section (%(default)s)")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON to write")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Choose; returns the exit code."""
    arguments = parse_arguments(argv)
    choice = choose_members(arguments.members, arguments.data_list, arguments.section)
    write_choice(choice, arguments.output)
    for row in choice["candidates"]:
        classes = f"VS {row['dice_VS']:.4f}, cochlea {row['dice_cochlea']:.4f}"
        print(f"{' + '.join(row['members'])}: mean Dice {row['dice']:.4f} ({classes})")
    print(f"chosen: {' + '.join(choice['members'])} ({choice['cases']} cases)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
