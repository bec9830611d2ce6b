"""Plan nnU-Net from the data, as nnU-Net does: an overlay for bundle segmentation-3d."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crossmoda.data import load_datalist, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.planning import CONFIGURATIONS, RULES, extract_fingerprint, plan_experiment, plan_overlay

EPILOG = """\
  plan_nnunet.py --data_list datalist.json --section source_training --configuration 3d_fullres --output plan.yaml
  python -m monai.bundle run --config_file "['bundles/segmentation-3d/configs/train.yaml','plan.yaml']" ...

Give the plan to inference.yaml and evaluate.yaml too. Rules v2 are nnunetv2's; v1's are those of the version that the
papers used, in 3D alone. Exit code: 0 written; 2 nothing written.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_list", required=True, metavar="FILE", help="made by make_datalist.py or prepare.py")
    parser.add_argument("--section", default="source_training", help="of the list (%(default)s)")
    parser.add_argument("--configuration", choices=CONFIGURATIONS, default="3d_fullres", help="%(default)s")
    parser.add_argument("--rules", choices=RULES, default="v2", help="version of nnU-Net (%(default)s)")
    parser.add_argument(
        "--memory_gb", type=float, default=8.0, metavar="GB", help="of the GPU to plan for (%(default)g)"
    )
    parser.add_argument(
        "--num_classes", type=int, default=3, help="background included: 3, or 4 with the tumour's parts (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="scans read at a time (default: one a core, at most 8)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the overlay, e.g. plan.yaml")
    return parser.parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Plan; returns the exit code."""
    arguments = parse_arguments(argv)
    output = Path(arguments.output)
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {output}: name it .yaml, MONAI reads configs by their ending")
    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: give 1 or more")
    items = load_datalist(arguments.data_list, arguments.section, check="header")
    fingerprint = extract_fingerprint(items, arguments.threads)
    plan = plan_experiment(
        fingerprint, arguments.configuration, arguments.memory_gb, arguments.num_classes, arguments.rules
    )
    origin = f"{len(items)} scans, {arguments.section}, {arguments.memory_gb:g} GB"
    try:
        write_text(plan_overlay(plan, origin), output)
    except OSError as error:
        raise InputError(f"{output} can't be written ({error.strerror}): give another --output") from None
    patch, spacing = (" x ".join(f"{edge:.4g}" for edge in values) for values in (plan.patch_size, plan.spacing))
    print(f"{len(items)} scans: patch {patch} at {spacing} mm, batch {plan.batch_size}, {len(plan.strides)} stages")
    print(f"Wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
