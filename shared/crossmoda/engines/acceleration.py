"""Memory layout and compilation of a translation objective's networks."""

from __future__ import annotations

import torch

from crossmoda.engines.objectives.base import TranslationObjective

# How objectives enter a network, beside calling it.
METHODS = ("encode", "decode", "encode_taps", "translate_with_taps")


def prepare_objective(
    objective: TranslationObjective,
    device: torch.device | str,
    channels_last: bool = False,
    compiled: bool = False,
) -> TranslationObjective:
    """Bring an objective to a device, and make its networks faster, before an optimizer takes their parameters.

    Neither changes the names or the shapes in the state dict, so that checkpoints go to and fro.

    Args:
        objective: as the config builds it; changed in place.
        device: where to run.
        channels_last: convolutions' weights with the channels innermost, which their outputs then take over.
        compiled: `torch.compile` of the convolutional networks, at their first use. Needs a C++ compiler, and Triton
            on a GPU; the first steps take minutes. Losses and projection heads stay as they are, and so do MSF-Net's
            discriminators: their random choices break the graphs.

    Returns:
        The objective.
    """
    objective = objective.to(device)
    if channels_last:
        objective = objective.to(memory_format=torch.channels_last)
    if compiled:
        for network in objective.children():
            if any(isinstance(module, torch.nn.Conv2d) for module in network.modules()):
                _compile(network)
    return objective


def _compile(network: torch.nn.Module) -> None:
    # `Module.compile` is for calls only. An objective may also call a part of a network, or one of its methods.
    for module in (network, *network.children()):
        module.compile()
    for name in METHODS:
        if hasattr(network, name):
            setattr(network, name, torch.compile(getattr(network, name)))
