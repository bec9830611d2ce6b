"""Resampling of feature maps without aliasing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class BlurDown(nn.Module):
    """Halves feature maps behind a binomial [1, 2, 1] filter per axis, reflected at the edges (Zhang 2019; CUT's code).

    Where a strided convolution aliases, this keeps the translation of a shifted slice the shifted translation. MONAI's
    filters do not stride.
    """

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        channels = x.shape[1]
        return F.conv2d(
            F.pad(x, [1, 1, 1, 1], mode="reflect"), self.kernel.expand(channels, 1, 3, 3), None, 2, 0, 1, channels
        )


class BlurUp(nn.Module):
    """Doubles feature maps with the filter [1, 3, 3, 1] / 4 per axis and replicated edges (CUT's code).

    That is bilinear interpolation between pixel centres, which torch has.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
