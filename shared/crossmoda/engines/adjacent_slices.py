"""Inference of 2.5D translators on volumes."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch.nn import functional as F


class AdjacentSlicesInferer(Inferer):
    """Gives a network each slice of a volume with its neighbours as channels, and keeps the middle of the output.

    Beyond both ends lie slices without signal (-1). With `average` a slice becomes the mean of all predictions of it,
    as the middle and as a neighbour: against flicker from slice to slice, at no further pass of the network.

    MONAI's `SliceInferer` cuts single slices; a `SlidingWindowInferer` would hand out windows without channels.

    Args:
        slices: adjacent slices (odd), the network's input and output channels.
        batch_size: slices a pass.
        average: False keeps the middle slice alone (Han 2022, code).

    Raises:
        ValueError: if `slices` is even.
    """

    def __init__(self, slices: int = 3, batch_size: int = 8, average: bool = False) -> None:
        super().__init__()
        if slices < 1 or slices % 2 == 0:
            raise ValueError(f"slices is {slices}: give an odd number, so that there is a middle slice")
        self.slices = slices
        self.batch_size = batch_size
        self.average = average

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs `network` on volumes.

        Args:
            inputs: (B, 1, X, Y, Z) in [-1, 1].
            network: (N, slices, X, Y) -> (N, slices, X, Y).
            args: handed to the network.
            kwargs: handed to the network.

        Returns:
            (B, 1, X, Y, Z).
        """
        half = self.slices // 2
        volumes = torch.as_tensor(inputs).as_subclass(torch.Tensor)[:, 0].permute(0, 3, 1, 2)
        count, depth = volumes.shape[:2]
        padded = F.pad(volumes, (0, 0, 0, 0, half, half), value=-1.0)
        windows = padded.unfold(1, self.slices, 1).permute(0, 1, 4, 2, 3).flatten(0, 1)
        batches = [network(window, *args, **kwargs) for window in windows.split(self.batch_size)]
        predictions = torch.cat(batches).unflatten(0, (count, depth))  # (B, Z, slices, X, Y)
        result = self._mean(predictions) if self.average else predictions[:, :, half]
        return result.permute(0, 2, 3, 1)[:, None]

    def _mean(self, predictions: torch.Tensor) -> torch.Tensor:
        """(B, Z, slices, X, Y) -> (B, Z, X, Y): channel c of the window around z shows slice z + c - slices // 2."""
        depth, half = predictions.shape[1], self.slices // 2
        sums = torch.zeros_like(predictions[:, :, 0], dtype=torch.float32)
        counts = torch.zeros(depth, 1, 1, device=predictions.device)
        for channel in range(self.slices):
            shift = channel - half
            first, last = max(shift, 0), depth + min(shift, 0)  # the slices that this channel shows
            sums[:, first:last] += predictions[:, first - shift : last - shift, channel]
            counts[first:last] += 1
        return sums / counts
