#!/usr/bin/env python
"""Exports a bundle's trained network to TorchScript and ONNX, and compares each with the network.

    python scripts/export_network.py segmentation-2.5d --method li2021 --weights out/model/model.pt \
        --shape 256 128 48 --torchscript model.ts --onnx model.onnx

The exports run without crossmoda. They are the network alone: preprocessing is what the bundle's inference.yaml says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from crossmoda.bundle import bundle_root, config_path, flatten_config, flatten_metadata
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.packaging import (
    build_network,
    example_input,
    export_onnx,
    export_torchscript,
    overlay_path,
    read_weights,
)


@exit_on_input_error
def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a bundle, e.g. segmentation-2.5d")
    parser.add_argument("--method", help="of configs/methods, e.g. li2021 (default: the bundle's own)")
    parser.add_argument("--overlays", nargs="+", default=[], help="on top of the method, in order, e.g. phantom")
    parser.add_argument("--weights", required=True, help="model.pt of a training with the same method and overlays")
    parser.add_argument("--shape", nargs="+", type=int, required=True, help="voxels of an input; ONNX takes no other")
    parser.add_argument("--torchscript", help="file to write, .ts")
    parser.add_argument("--onnx", help="file to write, .onnx")
    arguments = parser.parse_args()
    if not (arguments.torchscript or arguments.onnx):
        parser.error("give --torchscript or --onnx")

    root = Path(bundle_root(arguments.name))
    overlays = [*([arguments.method] if arguments.method else []), *arguments.overlays]
    files = [config_path(root, "inference"), *(overlay_path(root, item) for item in overlays)]
    network = build_network(flatten_config(files))
    read_weights(arguments.weights, network)
    metadata = flatten_metadata(root, [item for item in overlays if not Path(item).is_file()])
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    example = example_input([1, channels, *arguments.shape])
    try:
        with torch.no_grad():
            network.eval()(example)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the network takes no --shape {arguments.shape}: {reason}") from None
    for path, export in ((arguments.torchscript, export_torchscript), (arguments.onnx, export_onnx)):
        if path:
            print(f"{path}: differs from the network by {export(network, example, path):.2g} at most")


if __name__ == "__main__":
    main()
