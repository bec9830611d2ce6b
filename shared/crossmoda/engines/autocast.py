"""Mixed precision on any device."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer


class AutocastInferer(Inferer):
    """Runs another inferer under bfloat16 autocast on the device of its inputs, and returns float32.

    The `amp` flag of MONAI's engines is fixed to `torch.autocast("cuda")` and float16 with a gradient scaler: it does
    nothing on a CPU. bfloat16 needs no scaler and is about 1.5 times faster on a CPU that knows it; the loss and the
    optimizer stay in float32.

    On CPUs torch 2.13 (oneDNN) returns uninitialised memory as the bfloat16 weight gradient of a 3x3x3 convolution
    whose input is 2 voxels long in x, the first spatial axis, whatever its y and z: patches must leave at least 3
    there at a network's bottom (48 voxels in x for five levels, 96 for six).

    Args:
        inferer: the inferer to run, e.g. `SimpleInferer` or `SlidingWindowInferer`.
        enabled: False runs it as it is.
    """

    def __init__(self, inferer: Inferer, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(
        self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Runs `network` on `inputs`.

        Args:
            inputs: images (B, C, X, Y, Z).
            network: network that returns one tensor, or several (deep supervision, in training).
            args: handed to the inferer.
            kwargs: handed to the inferer.

        Returns:
            The network's output as float32.
        """
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            output = self.inferer(inputs, network, *args, **kwargs)
        if isinstance(output, torch.Tensor):
            return output.float()
        return tuple(tensor.float() for tensor in output)
