"""Averaging over mirror images at inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer

from crossmoda.engines.members import hard_labels


class MirrorInferer(Inferer):
    """Runs another inferer with a network that sees mirror images, and averages the outputs.

    As nnU-Net does at inference: what the network is given (each window of a sliding one) is mirrored along each
    combination of `axes`, segmented, mirrored back, and the logits are averaged. n axes cost 2^n passes. Only for
    networks trained with flips along these axes. MONAI has test-time augmentation by random transforms
    (`TestTimeAugmentation`), not this.

    Args:
        inferer: the inferer to run, e.g. `SlidingWindowInferer`.
        axes: spatial axes to mirror, 0 for the first after batch and channel; none runs the inferer as it is.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.inferer = inferer
        self.axes = tuple(axes)
        self.member_labels: list[torch.Tensor] = []  # of the last image, see `last_member_labels`

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs `network` on `inputs` as they are and mirrored.

        Args:
            inputs: images (B, C, ...).
            network: network that returns one tensor with the same spatial axes.
            args: handed to the inferer.
            kwargs: handed to the inferer.

        Returns:
            The mean output.
        """
        mirrors = mirror_dims(self.axes)
        total, self.member_labels = 0, []
        for dims in mirrors:
            logits = self.inferer(inputs, mirrored(network, dims), *args, **kwargs)
            if self.axes:
                self.member_labels.append(hard_labels(logits))
            total = total + logits
        return total / len(mirrors)


def mirrored(network: Callable[..., torch.Tensor], dims: Sequence[int]) -> Callable[..., torch.Tensor]:
    """The network on a mirror image of its input, its output mirrored back."""
    return lambda inputs, *args, **kwargs: torch.flip(network(torch.flip(inputs, dims), *args, **kwargs), dims)


def mirror_dims(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Dimensions of (B, C, ...) to flip for each combination of spatial axes, none first: 2^n for n axes."""
    return [dims for n in range(len(axes) + 1) for dims in combinations([axis + 2 for axis in axes], n)]
