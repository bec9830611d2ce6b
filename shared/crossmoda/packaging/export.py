"""A bundle's network as TorchScript and ONNX, which run without crossmoda; each is compared with the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crossmoda.data import replacing
from crossmoda.errors import InputError

# Greatest difference to the network, as a share of its greatest output; float32 in another order of sums
TOLERANCE = 1e-4
OPSET = 18


def example_input(shape: list[int], seed: int = 0) -> torch.Tensor:
    """Random numbers in [0, 1), the same each time.

    Args:
        shape: (B, C, ...) of the network's input.
        seed: of the numbers.
    """
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def export_torchscript(network: torch.nn.Module, example: torch.Tensor, path: str | Path) -> float:
    """Write a scripted network.

    Args:
        network: in evaluation mode.
        example: input (B, C, ...) for the comparison.
        path: the `.ts` file; written whole or not at all.

    Returns:
        The greatest difference between both outputs.

    Raises:
        InputError: if the outputs differ.
    """
    with replacing(path) as temporary:
        torch.jit.save(torch.jit.script(network), str(temporary))
        scripted = torch.jit.load(str(temporary))
        return _compare(network, lambda x: scripted(x), example, path)


def export_onnx(network: torch.nn.Module, example: torch.Tensor, path: str | Path) -> float:
    """Write a network as ONNX for inputs of the example's size, with any batch size, and run it with onnxruntime.

    Names are `image` and `pred`, as in the bundle's metadata.

    Args:
        network: in evaluation mode.
        example: input (B, C, ...), which fixes the spatial size.
        path: the `.onnx` file, weights inside; written whole or not at all.

    Returns:
        The greatest difference between both outputs.

    Raises:
        InputError: if the outputs differ.
    """
    import onnxruntime  # slow to load, and only needed here

    with replacing(path) as temporary:
        torch.onnx.export(
            network,
            (example,),
            str(temporary),
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])

        def run(x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.asarray(session.run(None, {"image": x.numpy()})[0]))

        return max(_compare(network, run, x, path) for x in (example, torch.cat([example, example.flip(2)])))


def _compare(
    network: torch.nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, path: str | Path
) -> float:
    with torch.inference_mode():
        expected, found = network(x), exported(x)
    difference = float((expected - found).abs().max())
    if expected.shape != found.shape or not difference <= TOLERANCE * float(expected.abs().max()):
        raise InputError(f"{path} is not written: its output differs from the network's by {difference:.2g}")
    return difference
