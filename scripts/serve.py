"""Serve bundles with MONAI Label, for 3D Slicer and other clients on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.serving import make_app

DESCRIPTION = """\
Serve bundles with MONAI Label: segment, translate, correct in 3D Slicer, fine-tune on the saved labels, and label next
what the network is least sure of. Runs in an environment of its own:

  source scripts/label_environment.sh
  python scripts/serve.py --bundles segmentation-2.5d --studies scans \\
      --weights segmentation-2.5d=runs/demo/segmentation/adapted/model/model.pt --overlays phantom

The bundles are copied; the copies (--app_dir) are what fine-tuning changes. docs/serving.md has the steps in 3D Slicer.
Research use only.
"""
LOOPBACK = ("127.0.0.1", "localhost")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", required=True, metavar="NAME[,NAME...]", help="e.g. segmentation-2.5d,translation")
    parser.add_argument("--studies", required=True, type=Path, metavar="DIR", help="folder of the scans (*.nii.gz)")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=PATH", help="a bundle's weights; else its models/model.pt"
    )
    parser.add_argument(
        "--overlays",
        nargs="+",
        default=[],
        metavar="[NAME=]CONFIG[,CONFIG...]",
        help="configs of the weights' training, in order, e.g. li2021,phantom; of one bundle, or of all",
    )
    parser.add_argument("--app_dir", type=Path, metavar="DIR", help="the copies that are served (STUDIES.served)")
    parser.add_argument("--fresh", action="store_true", help="drop what fine-tuning made of the weights")
    parser.add_argument("--tracking_uri", metavar="URI", help="MLflow, for fine-tuning (a sqlite store in --app_dir)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="%(default)s")
    return parser.parse_args(argv)


def read_pairs(words: list[str], bundles: list[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` words as a dict; a word without a name is of all bundles.

    Raises:
        InputError: if a bundle is named twice, or a value is empty.
    """
    pairs: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        for bundle in [name] if sign else bundles:
            if bundle in pairs or not (value if sign else name):
                raise InputError(f"{option} {word}: give NAME=VALUE, once a bundle")
            pairs[bundle] = value if sign else name
    return pairs


def environment(app_dir: Path, host: str) -> dict[str, str]:
    """What MONAI Label reads from the environment."""
    local = host in LOOPBACK
    return {
        **os.environ,
        "MONAI_LABEL_SESSIONS": "false",  # they unpack archives
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(["*.nii.gz", "*.nii"]),
        "BUNDLE_DOWNLOAD_SRC": "local",  # never asks the model zoo
        "TMPDIR": str(app_dir / "uploads"),  # an inference may read nothing else but the studies
        "CROSSMODA_SERVED_HOSTS": ",".join(LOOPBACK) if local else "*",
    }


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    """Make the folder and become its server."""
    arguments = parse_arguments(argv)
    if importlib.util.find_spec("monailabel") is None:
        raise InputError("MONAI Label is not in this environment: run `source scripts/label_environment.sh` first")
    if not arguments.studies.is_dir():
        raise InputError(f"{arguments.studies} is not a folder: give --studies the folder of the scans")
    if not 0 < arguments.port < 65536:
        raise InputError(f"--port {arguments.port}: give a number from 1 to 65535")
    studies = arguments.studies.resolve()
    app_dir = (arguments.app_dir or studies.with_name(f"{studies.name}.served")).absolute()
    if app_dir.resolve().is_relative_to(studies):
        raise InputError(f"--app_dir {app_dir} lies in the studies: give a folder beside them")
    bundles = [name for name in arguments.bundles.split(",") if name]
    weights = read_pairs([word for word in arguments.weights if "=" in word] or [], bundles, "--weights")
    if len(weights) != len(arguments.weights):
        raise InputError("--weights: give NAME=PATH, e.g. segmentation-2.5d=model.pt")
    overlays = read_pairs(arguments.overlays, bundles, "--overlays")
    lists = {name: [part for part in value.split(",") if part] for name, value in overlays.items()}
    make_app(app_dir, bundles, weights, lists, arguments.tracking_uri, arguments.fresh)
    if arguments.host not in LOOPBACK:
        print(
            f"WARNING: {arguments.host}:{arguments.port} can be reached from other machines, and there is no "
            "authentication: whoever reaches it can read and change all studies. Use a tunnel (ssh -L) instead.",
            file=sys.stderr,
        )
    print(f"Serving {', '.join(bundles)} at http://{arguments.host}:{arguments.port} (stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app_dir)]
    command += ["--studies", str(studies), "--host", arguments.host, "--port", str(arguments.port)]
    command += ["--uvicorn_app", "crossmoda.serving.label.web:app"]
    os.chdir(app_dir)  # a scan's name must not find a file here
    os.execve(sys.executable, command, environment(app_dir, arguments.host))


if __name__ == "__main__":
    main()
