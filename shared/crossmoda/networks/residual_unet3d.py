"""The residual 3D U-Net of Li 2021, which adds up the segmentation maps of its levels; with or without attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import UnetResBlock
from torch import nn


class AttentionGate(nn.Module):
    r"""Additive attention gate (Oktay 2018): $y = x \, \sigma(W_a ReLU(W_g g + W_x x))$, all W 1x1x1 convolutions.

    MONAI's `AttentionBlock` has a batch norm after each of the three, whose statistics over batches of one or two
    patches are poor; here, in a network with instance norm, the gate has none.

    Args:
        gating_channels: channels of g, the coarser level's features at the skip's size.
        channels: channels of x, the skip.
        inner_channels: channels of the sum.
    """

    def __init__(self, gating_channels: int, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.of_gating = nn.Conv3d(gating_channels, inner_channels, 1)
        self.of_skip = nn.Conv3d(channels, inner_channels, 1, bias=False)  # the sum needs one bias
        self.to_map = nn.Conv3d(inner_channels, 1, 1)

    def forward(self, gating: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Weighs `skip` (B, channels, X, Y, Z) by a map in (0, 1) that `gating`, of the same size, has a part in."""
        inner = torch.relu(self.of_gating(gating) + self.of_skip(skip))
        return skip * torch.sigmoid(self.to_map(inner))


class DecoderLevel(nn.Module):
    """Nearest upsampling by two, the skip (through a gate) concatenated, and a residual block.

    Args:
        below: channels of the coarser level.
        channels: channels of this level and its skip.
        attention: whether the skip goes through an `AttentionGate`.
        norm: see `ResidualUNet3d`.
    """

    def __init__(self, below: int, channels: int, attention: bool, norm: str | tuple) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.gate = AttentionGate(below, channels, max(channels // 2, 1)) if attention else None
        self.block = UnetResBlock(3, below + channels, channels, kernel_size=3, stride=1, norm_name=norm)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Maps (B, below, X, Y, Z) and the skip (B, channels, 2X, 2Y, 2Z) to features of the skip's shape."""
        x = self.up(x)
        if self.gate is not None:
            skip = self.gate(x, skip)
        return self.block(torch.cat([skip, x], dim=1))


class ResidualUNet3d(nn.Module):
    """Residual 3D U-Net with output adding, with or without attention gates (Li 2021, 3.7 and Fig. 3).

    | level | channels | convolutions | down | up |
    |---|---|---|---|---|
    | 1 | 16 | two of 3x3x3, residual | max-pool 2 | nearest x 2 |
    | 2 | 32 | two of 3x3x3, residual | max-pool 2 | nearest x 2 |
    | 3 | 64 | two of 3x3x3, residual | max-pool 2 | nearest x 2 |
    | 4 | 128 | two of 3x3x3, residual | max-pool 2 | nearest x 2 |
    | 5 | 256 | two of 3x3x3, residual | - | - |

    Each decoder level has a 1x1x1 head; the coarser levels' segmentation maps are enlarged and added to the finer
    ones' ("output adding"), so that every level is supervised by a loss on the one sum. With `attention` the skips go
    through `AttentionGate`s, which the features from below open. The paper states 3D max-pooling, nearest upsampling,
    residual blocks, output adding and the gates in the skips; it refers to an abstract for the rest. Open, and ours:
    number of levels and channels, instance norm and LeakyReLU(0.01) (MONAI's `UnetResBlock`, as in nnU-Net), a gate's
    inner channels (half of the skip's).

    MONAI's `SegResNet` and `UNet` have strided convolutions for pooling and no heads on the levels, `AttentionUnet` no
    residual blocks, and `DynUNet` hands its heads out one by one instead of adding them up; this network is put
    together from MONAI's block.

    Each axis must be divisible by `divisor`, 2 to the number of poolings (16), and at least one larger than that, for
    instance norm needs two voxels at the bottom: Li's 48 slices allow no fifth pooling.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: channels of the levels, finest first.
        attention: whether the skips go through attention gates.
        norm: normalisation as MONAI names it.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        attention: bool = False,
        norm: str | tuple = ("instance", {"affine": True}),
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"need >= 2 levels, got channels {tuple(channels)}")
        self.divisor = 2 ** (len(channels) - 1)
        self.encoders = nn.ModuleList(
            UnetResBlock(3, n_in, n_out, kernel_size=3, stride=1, norm_name=norm)
            for n_in, n_out in pairwise([in_channels, *channels])
        )
        self.pool = nn.MaxPool3d(2)
        coarsest_first = channels[::-1]
        self.decoders = nn.ModuleList(
            DecoderLevel(below, level, attention, norm) for below, level in pairwise(coarsest_first)
        )
        self.heads = nn.ModuleList(nn.Conv3d(level, out_channels, 1) for level in coarsest_first[1:])
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the logits.

        Args:
            x: images (B, in_channels, X, Y, Z), each axis divisible by `divisor`.

        Returns:
            Logits (B, out_channels, X, Y, Z), the sum over the levels, in training too.

        Raises:
            ValueError: if an axis is not divisible, or all are as small as `divisor`.
        """
        shape = x.shape[2:]
        if any([size % self.divisor != 0 for size in shape]) or max(shape) == self.divisor:  # noqa: C419 - TorchScript
            raise ValueError(f"image axes {shape} must be divisible by {self.divisor}, and one of them larger")
        skips: list[torch.Tensor] = []
        for i, encoder in enumerate(self.encoders):
            if i > 0:
                skips.append(x)
                x = self.pool(x)
            x = encoder(x)
        maps: list[torch.Tensor] = []
        for decoder, head in zip(self.decoders, self.heads):  # noqa: B905 - TorchScript knows no strict=
            x = decoder(x, skips.pop())
            maps.append(head(x) if len(maps) == 0 else head(x) + self.up(maps[-1]))
        return maps[-1]
