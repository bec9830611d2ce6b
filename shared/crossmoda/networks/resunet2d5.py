"""The 2.5D residual U-Net of Chen 2023, which never shrinks the slice axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Union

import torch
from monai.networks.blocks import Convolution
from torch import nn

IN_PLANE = (3, 3, 1)
ISOTROPIC = (3, 3, 3)
HALVING = (2, 2, 1)
KEEPING = (1, 1, 1)


class BasicBlock(nn.Module):
    """Residual block: y = ReLU(norm(conv(ReLU(norm(conv(x))))) + shortcut(x)).

    MONAI's `ResNetBlock` has 3x3x3 kernels only, and its `UnetResBlock` the same kernel twice and no biases.

    Args:
        in_channels: channels of the input.
        out_channels: channels of both convolutions.
        halve: the first convolution is (3, 3, 1) with stride (2, 2, 1), and the shortcut a 1x1x1 convolution of that
            stride with normalisation; otherwise the first is 3x3x3 and the shortcut the identity, for which both
            channels must be equal.
        norm: see `ResUNet2d5`.
    """

    def __init__(self, in_channels: int, out_channels: int, halve: bool, norm: str | tuple) -> None:
        super().__init__()
        kernel, strides = (IN_PLANE, HALVING) if halve else (ISOTROPIC, KEEPING)
        self.first = Convolution(
            3, in_channels, out_channels, strides, kernel, adn_ordering="NA", act="relu", norm=norm
        )
        self.second = Convolution(3, out_channels, out_channels, 1, ISOTROPIC, adn_ordering="N", norm=norm)
        self.shortcut = (
            Convolution(3, in_channels, out_channels, HALVING, 1, adn_ordering="N", norm=norm)
            if halve
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, in_channels, X, Y, Z) to (B, out_channels, X', Y', Z)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ResUNet2d5(nn.Module):
    """2.5D ResUNet with deep supervision (Chen 2023, 2.2 and Fig. 3; sizes from their code): 14.4 M parameters.

    | stage | channels | convolutions |
    |---|---|---|
    | stem | 32 | (3,3,1) with stride (2,2,1), 3x3x3 |
    | down 1, 2, 3 | 64, 128, 256 | 3 basic blocks, the first begins with (3,3,1) of stride (2,2,1) |
    | up 3, 2, 1 | 128, 64, 32 | trilinear x(2,2,1), skip concatenated, two of 3x3x3 |
    | head | classes | 1x1x1, trilinear x(2,2,1) |

    Axes are (x, y, z) with z across the thick slices. Instance norm without affine parameters and ReLU everywhere; all
    convolutions have biases. Three more 1x1x1 heads look at the decoder's stages in training. The code enlarges the
    last features and then applies the head; both are linear and the interpolation's weights sum to one, so the order
    here gives the same and needs a tenth of the memory. MONAI's `UNet`, `DynUNet` and `SegResNet` have neither the
    mixed kernels of the first block of a stage nor the strided stem.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: channels of the stem and the stages below, finest first; at least two.
        blocks: basic blocks a stage.
        norm: normalisation as MONAI names it.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 3,
        norm: str | tuple = "instance",
    ) -> None:
        super().__init__()
        if len(channels) < 2 or blocks < 1:
            raise ValueError(f"need >= 2 channels and >= 1 block, got {tuple(channels)} and {blocks}")
        self.divisor = (2 ** len(channels), 2 ** len(channels), 1)
        self.stem = nn.Sequential(
            Convolution(3, in_channels, channels[0], HALVING, IN_PLANE, adn_ordering="NA", act="relu", norm=norm),
            Convolution(3, channels[0], channels[0], 1, ISOTROPIC, adn_ordering="NA", act="relu", norm=norm),
        )
        self.downs = nn.ModuleList(
            nn.Sequential(
                BasicBlock(n_in, n_out, True, norm), *(BasicBlock(n_out, n_out, False, norm) for _ in range(blocks - 1))
            )
            for n_in, n_out in pairwise(channels)
        )
        self.up = nn.Upsample(scale_factor=(2.0, 2.0, 1.0), mode="trilinear", align_corners=False)
        self.decoders = nn.ModuleList(
            nn.Sequential(
                Convolution(3, below + skip, skip, 1, ISOTROPIC, adn_ordering="NA", act="relu", norm=norm),
                Convolution(3, skip, skip, 1, ISOTROPIC, adn_ordering="NA", act="relu", norm=norm),
            )
            for below, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.Conv3d(channels[0], out_channels, 1)
        self.deep_heads = nn.ModuleList(nn.Conv3d(n, out_channels, 1) for n in channels[:-1])

    def forward(self, x: torch.Tensor) -> Union[torch.Tensor, list[torch.Tensor]]:  # noqa: UP007 - for TorchScript
        """Computes the logits.

        Args:
            x: images (B, in_channels, X, Y, Z), X and Y divisible by `divisor`.

        Returns:
            Logits (B, out_channels, X, Y, Z); in training a list of them and of those at 1/2, 1/4, 1/8 of X and Y.

        Raises:
            ValueError: if an axis is not divisible.
        """
        for axis, factor in enumerate(self.divisor):
            if x.shape[2 + axis] % factor != 0:
                raise ValueError(f"image axes {x.shape[2:]} must be divisible by {self.divisor}")
        x = self.stem(x)
        skips: list[torch.Tensor] = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        stages: list[torch.Tensor] = []
        for decoder in self.decoders:
            x = decoder(torch.cat([self.up(x), skips.pop()], dim=1))
            stages.insert(0, x)
        logits = self.up(self.head(x))
        if not self.training:
            return logits
        outputs = [logits]
        for i, deep_head in enumerate(self.deep_heads):
            outputs.append(deep_head(stages[i]))
        return outputs
