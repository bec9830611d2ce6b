"""Trained weights for inference."""

from __future__ import annotations

from pathlib import Path

import torch

from crossmoda.errors import InputError, exit_on_input_error


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a network, or say in one line why not.

    MONAI's `CheckpointLoader` by default passes over keys that do not fit, which leaves random weights in place.

    Args:
        network: as the bundle's `network_def` builds it.
        path: `model.pt`, a plain state dict.

    Raises:
        InputError: if the file is missing, unreadable, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is missing: train first (configs/train.yaml), or name the folder with --ckpt_dir")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is not a checkpoint ({type(error).__name__}): train again") from None
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(
            f"{path} is of another network: give the config files of its training (methods, phantom) here too"
        ) from None


load_weights_or_exit = exit_on_input_error(load_weights)
