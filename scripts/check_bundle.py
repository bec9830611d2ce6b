#!/usr/bin/env python
"""Checks a bundle, and what you put on top of it, before anything runs: misspelt keys, missing ids, metadata.

    python scripts/check_bundle.py segmentation-2.5d
    python scripts/check_bundle.py segmentation-2.5d_v0.2.0.zip
    python scripts/check_bundle.py segmentation-2.5d --config train --overlays li2021 phantom --override max_epochs=3

MONAI adds a key that it does not know to the config and trains with the default; this names the key that was probably
meant. Each fault is one line; the exit code is 1 if there is one. No data is read and no network is built.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from crossmoda.bundle import bundle_root
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.packaging import check_bundle, check_config, unpack_bundle


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a bundle, e.g. segmentation-2.5d, a bundle's folder, or a package's zip")
    parser.add_argument("--config", help="only this workflow: train, inference, ... (default: all, and the metadata)")
    parser.add_argument("--overlays", nargs="+", default=[], help="merged on top, in order: li2021, phantom, my.yaml")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="as for monai.bundle run")
    arguments = parser.parse_args()
    if arguments.override and not arguments.config:
        parser.error("--override needs --config")
    return arguments


def overrides_of(words: list[str]) -> dict[str, object]:
    """`key=value` words to values: Python literals, or text."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--override {word}: write KEY=VALUE")
        try:
            values[key.removeprefix("--")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[key.removeprefix("--")] = value
    return values


@exit_on_input_error
def main() -> None:
    """Check a folder, or a zip that is unpacked carefully for it."""
    arguments = parse_arguments()
    if arguments.name.endswith(".zip"):
        with TemporaryDirectory() as folder:
            check(unpack_bundle(arguments.name, folder), arguments)
        return
    is_folder = (Path(arguments.name) / "configs" / "metadata.json").is_file()
    check(Path(arguments.name if is_folder else bundle_root(arguments.name)), arguments)


def check(root: Path, arguments: argparse.Namespace) -> None:
    """Print the faults of a bundle's folder."""
    if arguments.config:
        faults = check_config(root, arguments.config, arguments.overlays, overrides_of(arguments.override))
    else:
        faults = check_bundle(root, arguments.overlays)
    for fault in faults:
        print(f"{root.name}: {fault}", file=sys.stderr)
    if faults:
        raise SystemExit(1)
    print(f"{root.name}: no fault found")


if __name__ == "__main__":
    main()
