"""The residual 2.5D U-Net of VS_Seg, which hands out its attention maps to be supervised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from torch import nn

from crossmoda.networks.unet2d5 import IN_PLANE, ISOTROPIC, SpatialAttention


class AttendedUnit(nn.Module):
    """An attention module and the residual unit that takes the weighted features.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the level's kernel, of both.
        **unit: arguments of MONAI's `ResidualUnit`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], **unit: object) -> None:
        super().__init__()
        self.attention = SpatialAttention(in_channels, kernel_size)
        self.unit = ResidualUnit(3, in_channels, out_channels, kernel_size=kernel_size, **unit)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, out_channels, X, Y, Z) and the map (B, 1, X, Y, Z) in (0, 1) that has weighted the input."""
        attention_map = self.attention.map(x)
        return self.unit(x * (1 + attention_map)), attention_map


class SupervisedAttentionUNet2d5(nn.Module):
    """2.5D U-Net of Shapey's VS_Seg: six levels, residual units, strided convolutions, supervised attention.

    | level | channels | convolutions | down to the next level, and up from it |
    |---|---|---|---|
    | 1 | 16 | 3x3x1 | 3x3x1, stride (2, 2, 1) |
    | 2 | 32 | 3x3x1 | 3x3x1, stride (2, 2, 1) |
    | 3 | 48 | 3x3x3 | 3x3x3, stride (2, 2, 2) |
    | 4 | 64 | 3x3x3 | 3x3x3, stride (2, 2, 2) |
    | 5 | 80 | 3x3x3 | 3x3x3, stride (2, 2, 2) |
    | 6 | 96 | 3x3x3 | - |

    Axes are (x, y, z) with z across the thick slices. A convolution is followed by batch norm, dropout and PReLU.
    Encoder and bottom levels have residual units of two convolutions, decoder levels of one; the last one's gives the
    logits, without norm and activation. Attention modules stand before the bottom and before every decoder unit.
    3.45 million parameters. The numbers are those of VS_Seg's code (github.com/KCL-BMEIS/VS_Seg); `UNet2d5` is the
    five-level form of Wang 2019 with max-pooling and without residuals.

    MONAI's `UNet` with `num_res_units` has the same parts, but one kernel for all levels, strides inside its residual
    units and no attention; this network is put together from its blocks.

    The input's x and y must be divisible by 32 and its z by 8 (`divisor`); any scan fits by sliding window.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: channels of the levels, finest first.
        num_2d_levels: how many of the finest levels have 2D kernels and strides.
        norm: normalisation as MONAI names it.
        dropout: probability that a value is dropped, after each norm.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (16, 32, 48, 64, 80, 96),
        num_2d_levels: int = 2,
        norm: str | tuple = "batch",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or not 0 <= num_2d_levels < len(channels):
            raise ValueError(f"need >= 2 levels and 0 <= num_2d_levels < levels, got {channels} and {num_2d_levels}")
        kernels = [IN_PLANE if level < num_2d_levels else ISOTROPIC for level in range(len(channels))]
        strides = [(2, 2, 1) if level < num_2d_levels else (2, 2, 2) for level in range(len(channels) - 1)]
        self.divisor = tuple(2 ** sum(stride[axis] == 2 for stride in strides) for axis in range(3))
        layers = {"act": "prelu", "norm": norm, "dropout": dropout}
        finest_first = range(len(strides))
        coarsest_first = range(len(strides) - 1, -1, -1)

        inputs = [in_channels, *channels]
        self.encoders = nn.ModuleList(
            ResidualUnit(3, inputs[level], channels[level], kernel_size=kernels[level], subunits=2, **layers)
            for level in finest_first
        )
        self.downs = nn.ModuleList(
            Convolution(3, channels[level], channels[level], strides[level], kernels[level], **layers)
            for level in finest_first
        )
        self.bottom = AttendedUnit(channels[-2], channels[-1], kernels[-1], subunits=2, **layers)
        self.ups = nn.ModuleList(
            Convolution(
                3, channels[level + 1], channels[level], strides[level], kernels[level], is_transposed=True, **layers
            )
            for level in coarsest_first
        )
        outputs = [out_channels, *channels[1:]]
        self.decoders = nn.ModuleList(
            AttendedUnit(
                2 * channels[level], outputs[level], kernels[level], subunits=1, last_conv_only=level == 0, **layers
            )
            for level in coarsest_first
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Computes the logits, and in training mode the attention maps.

        Args:
            x: images (B, in_channels, X, Y, Z), X, Y, Z divisible by `divisor`.

        Returns:
            Logits (B, out_channels, X, Y, Z). In training mode, but not as TorchScript, a list of them and the maps
            (B, 1, x, y, z) in (0, 1), coarsest first: one of the bottom and one of each decoder level.

        Raises:
            ValueError: if an axis is not divisible.
        """
        for axis, factor in enumerate(self.divisor):
            if x.shape[2 + axis] % factor != 0:
                raise ValueError(f"image axes {x.shape[2:]} must be divisible by {self.divisor}")
        skips: list[torch.Tensor] = []
        for encoder, down in zip(self.encoders, self.downs):  # noqa: B905 - TorchScript knows no strict=
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x, attention_map = self.bottom(x)
        maps = [attention_map]
        for up, decoder in zip(self.ups, self.decoders):  # noqa: B905
            x, attention_map = decoder(torch.cat([skips.pop(), up(x)], dim=1))
            maps.append(attention_map)
        if not torch.jit.is_scripting() and self.training:
            return [x, *maps]
        return x
