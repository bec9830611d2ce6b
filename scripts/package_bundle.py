#!/usr/bin/env python
"""Packages a bundle with trained weights as one zip that runs without this repository.

    python scripts/package_bundle.py segmentation-2.5d --method li2021 --weights out/model/model.pt

The zip holds one folder: merged JSON configs, models/model.pt, the package crossmoda, model card, licence, checksums.
Unpacked anywhere, `monai.bundle.load` and `python -m monai.bundle run` need the packages of requirements.txt alone.
The same input gives the same bytes. `scripts/check_bundle.py X.zip` checks a package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crossmoda.bundle import bundle_root
from crossmoda.errors import exit_on_input_error
from crossmoda.packaging import package_bundle

LARGE = 25 * 2**20  # bytes; what the model zoo takes as a file of its repository


@exit_on_input_error
def main() -> None:
    """Write the zip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a bundle, e.g. segmentation-2.5d, or a bundle's folder")
    parser.add_argument("--method", help="of configs/methods, e.g. li2021 (default: the bundle's own)")
    parser.add_argument("--overlays", nargs="+", default=[], help="on top of the method, in order, e.g. phantom")
    parser.add_argument("--weights", required=True, help="model.pt of a training with the same method and overlays")
    parser.add_argument("--output", help="the zip (default: <name>_v<version>.zip here)")
    arguments = parser.parse_args()
    is_folder = (Path(arguments.name) / "configs" / "metadata.json").is_file()
    root = Path(arguments.name if is_folder else bundle_root(arguments.name))
    method = [arguments.method] if arguments.method else []
    path = package_bundle(root.resolve(), arguments.weights, [*method, *arguments.overlays], arguments.output)
    print(path)
    if Path(arguments.weights).stat().st_size > LARGE:
        print("note: the model zoo's repository takes files up to 25 MB; name models/model.pt in large_files.yml there")


if __name__ == "__main__":
    main()
