"""The 2.5D U-Net for anisotropic scans: 2D convolutions in the fine levels, 3D convolutions in the coarse ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Act, Conv, Pool
from monai.networks.layers.utils import get_norm_layer
from torch import nn

IN_PLANE = (3, 3, 1)
ISOTROPIC = (3, 3, 3)


class ConvBlock(nn.Sequential):
    """Two times convolution, normalisation, PReLU; keeps the spatial size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of both convolutions.
        kernel_size: (3, 3, 1) for a 2D level, (3, 3, 3) for a 3D level.
        norm: see `UNet2d5`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sequence[int], norm: str | tuple = "batch"
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                Conv["conv", 3](channels, out_channels, kernel_size, padding=_same_padding(kernel_size)),
                get_norm_layer(norm, spatial_dims=3, channels=out_channels),
                Act["prelu"](),
            ]
        super().__init__(*layers)


class SpatialAttention(nn.Module):
    """Learned map A in (0, 1) that raises the weight of the small regions: y = x (1 + A).

    conv (c -> c/2), ReLU, conv (-> 1), sigmoid, as in Shapey's VS_Seg. MONAI's `AttentionBlock` is the gate of
    Attention U-Net, which needs a second input and can only weaken features.

    Args:
        channels: channels c of the input, >= 2.
        kernel_size: the level's kernel.
    """

    def __init__(self, channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        padding = _same_padding(kernel_size)
        self.map = nn.Sequential(
            Conv["conv", 3](channels, channels // 2, kernel_size, padding=padding),
            Act["relu"](),
            Conv["conv", 3](channels // 2, 1, kernel_size, padding=padding),
            Act["sigmoid"](),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weighs `x` (B, C, X, Y, Z) by its map; same shape."""
        return x * (1 + self.map(x))


class UNet2d5(nn.Module):
    """2.5D U-Net of Wang 2019 and Shapey 2019 in the five-level form of Li 2021 (Fig. 2 and 3.6).

    | level | channels | convolutions | pooling to the next level |
    |---|---|---|---|
    | 1 | 16 | 3x3x1 | (2, 2, 1) |
    | 2 | 32 | 3x3x1 | (2, 2, 1) |
    | 3 | 48 | 3x3x3 | (2, 2, 2) |
    | 4 | 64 | 3x3x3 | (2, 2, 2) |
    | 5 | 80 | 3x3x3 | - |

    Axes are (x, y, z) with z across the thick slices. Each level has two convolutions with batch norm and PReLU;
    max-pooling leads down, a deconvolution whose kernel equals its stride leads up, skips are concatenated. The
    attention modules stand before the bottom block and before every decoder block. MONAI's `UNet` cannot express it:
    it has strided convolutions for pooling and no attention; its `AttentionUnet` and `BasicUNet` are isotropic.

    The input's x and y must be divisible by 16 and its z by 4 (`divisor`); any scan fits by sliding window.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: channels of the levels, finest first.
        num_2d_levels: how many of the finest levels have 2D kernels and pooling.
        attention: False leaves the attention modules out.
        norm: normalisation as MONAI names it, e.g. "instance" or ("batch", {"momentum": 0.02}).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (16, 32, 48, 64, 80),
        num_2d_levels: int = 2,
        attention: bool = True,
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        if len(channels) < 2 or not 0 <= num_2d_levels < len(channels):
            raise ValueError(f"need >= 2 levels and 0 <= num_2d_levels < levels, got {channels} and {num_2d_levels}")
        kernels = [IN_PLANE if level < num_2d_levels else ISOTROPIC for level in range(len(channels))]
        strides = [(2, 2, 1) if level < num_2d_levels else (2, 2, 2) for level in range(len(channels) - 1)]
        self.divisor = tuple(2 ** sum(stride[axis] == 2 for stride in strides) for axis in range(3))

        inputs = [in_channels, *channels[:-1]]
        self.encoders = nn.ModuleList(
            ConvBlock(n_in, n_out, kernel, norm)
            for n_in, n_out, kernel in zip(inputs[:-1], channels[:-1], kernels[:-1], strict=True)
        )
        self.pools = nn.ModuleList(Pool["max", 3](kernel_size=stride, stride=stride) for stride in strides)
        self.bottom = nn.Sequential(
            SpatialAttention(channels[-2], kernels[-1]) if attention else nn.Identity(),
            ConvBlock(channels[-2], channels[-1], kernels[-1], norm),
        )
        self.ups = nn.ModuleList(
            Conv["convtrans", 3](channels[level + 1], channels[level], strides[level], stride=strides[level])
            for level in reversed(range(len(strides)))
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                SpatialAttention(2 * channels[level], kernels[level]) if attention else nn.Identity(),
                ConvBlock(2 * channels[level], channels[level], kernels[level], norm),
            )
            for level in reversed(range(len(strides)))
        )
        self.head = Conv["conv", 3](channels[0], out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the logits.

        Args:
            x: images (B, in_channels, X, Y, Z), X, Y, Z divisible by `divisor`.

        Returns:
            Logits (B, out_channels, X, Y, Z).

        Raises:
            ValueError: if an axis is not divisible.
        """
        for axis, factor in enumerate(self.divisor):
            if x.shape[2 + axis] % factor != 0:
                raise ValueError(f"image axes {x.shape[2:]} must be divisible by {self.divisor}")
        skips: list[torch.Tensor] = []
        for encoder, pool in zip(self.encoders, self.pools):  # noqa: B905 - TorchScript knows no strict=
            x = encoder(x)
            skips.append(x)
            x = pool(x)
        x = self.bottom(x)
        for up, decoder in zip(self.ups, self.decoders):  # noqa: B905
            x = decoder(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


def _same_padding(kernel_size: Sequence[int]) -> tuple[int, ...]:
    return tuple(k // 2 for k in kernel_size)
