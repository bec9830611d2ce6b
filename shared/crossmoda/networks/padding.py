"""Padding that lets a network with strides take slices of any size."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both in-plane sizes are divisible; scriptable.

    MONAI's `DivisiblePad` is a transform of data items, not a function within a network's `forward`.

    Args:
        x: (B, C, H, W).
        multiple: the product of the network's strides.

    Returns:
        (B, C, H', W'); cut it back with `[..., :H, :W]`.
    """
    rows = (multiple - x.shape[-2] % multiple) % multiple
    columns = (multiple - x.shape[-1] % multiple) % multiple
    if rows == 0 and columns == 0:
        return x
    return F.pad(x, [0, columns, 0, rows], mode="replicate")
