"""Weights from a user, looked at before they go into a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from crossmoda.errors import InputError
from crossmoda.packaging.ids import Config


def build_network(config: Config) -> torch.nn.Module:
    """The network of a flattened inference config, on the CPU, in evaluation mode.

    Raises:
        InputError: if the config has none.
    """
    if "network_def" not in config:
        raise InputError("the bundle's inference has no network of its own: package the bundles of its networks")
    parser = ConfigParser(dict(config))
    return parser.get_parsed_content("network_def").eval()


def read_weights(path: str | Path, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint that fits a network to the last tensor.

    Args:
        path: `model.pt`, a plain state dict; nothing is unpickled but tensors.
        network: as `build_network` makes it; the weights are loaded into it.

    Returns:
        The state dict.

    Raises:
        InputError: if the file is missing, holds anything but tensors, is of another network, or is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is missing: give a trained model.pt with --weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is not a checkpoint of tensors ({type(error).__name__}): give a model.pt") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} is not a plain state dict (a last.pt?): give the model.pt beside it")
    fault = _misfit(state, network.state_dict())
    if fault:
        raise InputError(f"{path} is of another network ({fault}): give the overlays of its training")
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path}: '{name}' is not finite: the training has diverged, take another checkpoint")
    network.load_state_dict(state)
    return state


def _misfit(state: dict[str, Any], expected: dict[str, Any]) -> str | None:
    for name in expected:
        if name not in state:
            return f"'{name}' is missing"
        if state[name].shape != expected[name].shape:
            return f"'{name}' is {tuple(state[name].shape)}, needed is {tuple(expected[name].shape)}"
    extra = [name for name in state if name not in expected]
    return f"'{extra[0]}' is unknown" if extra else None
