"""The U-Net generator of Shin 2021, and the decoder that turns any encoder's features into images or labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from torch import nn

from crossmoda.networks.init import init_kaiming
from crossmoda.networks.padding import pad_to_multiple


class UNetDecoder(nn.Module):
    """Brings a pyramid of feature maps back to full resolution: transposed convolution, skip, two convolutions.

    Serves as a generator's image decoder and as the segmentation decoder on a generator's encoder (Shin 2021); the
    output has no activation. Built of MONAI's DynUNet blocks with instance norm.

    Args:
        channels: channels of the feature maps, from full resolution down; each map is half as large as the former.
        out_channels: channels of the output, e.g. the number of classes.
    """

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        pairs = list(zip(channels[1:], channels[:-1], strict=True))
        self.ups = nn.ModuleList(
            UnetUpBlock(2, deep, shallow, kernel_size=3, stride=2, upsample_kernel_size=2, norm_name="INSTANCE")
            for deep, shallow in reversed(pairs)
        )
        self.output = nn.Conv2d(channels[0], out_channels, 1)
        init_kaiming(self)
        nn.init.normal_(self.output.weight, 0.0, 0.02)  # starts in the middle of tanh, and undecided between classes

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Feature maps (B, channels[i], H / 2^i, W / 2^i) -> (B, out_channels, H, W)."""
        x = features[-1]
        for i, up in enumerate(self.ups):
            x = up(x, features[len(features) - 2 - i])
        return self.output(x)


class UNetGenerator(nn.Module):
    """Translates slices with a U-Net whose encoder a segmentation decoder can share (Shin 2021, section 2.1).

    The paper gives "3-level U-net" and no more. Open, and chosen here: three stride-2 steps, 64 features at full
    resolution doubled at each step, two 3x3 convolutions with instance norm and LeakyReLU a level (MONAI's DynUNet
    blocks and initialisation), tanh. Slices whose sizes are no multiple of 2^levels are padded inside and cut back.

    MONAI's own U-Nets do not give out their encoders' features.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels at full resolution.
        levels: stride-2 steps.

    Example:
        >>> UNetGenerator(features=4, levels=2)(torch.zeros(1, 1, 30, 34)).shape
        torch.Size([1, 1, 30, 34])
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, features: int = 64, levels: int = 3) -> None:
        super().__init__()
        self.feature_channels = tuple(features * 2**i for i in range(levels + 1))
        self.divisor = 2**levels
        sizes = (in_channels, *self.feature_channels)
        self.encoder = nn.ModuleList(
            UnetBasicBlock(2, sizes[i], sizes[i + 1], 3, stride=1 if i == 0 else 2, norm_name="INSTANCE")
            for i in range(levels + 1)
        )
        init_kaiming(self.encoder)
        self.decoder = UNetDecoder(self.feature_channels, out_channels)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps from full resolution down, of slices (B, C, H, W) whose sizes `divisor` divides."""
        features: list[torch.Tensor] = []
        for block in self.encoder:
            x = block(x)
            features.append(x)
        return features

    def decode(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The image (B, out_channels, H, W) in [-1, 1]."""
        return torch.tanh(self.decoder(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate slices (B, in_channels, H, W) in [-1, 1] to (B, out_channels, H, W) in [-1, 1]."""
        image = self.decode(self.encode(pad_to_multiple(x, self.divisor)))
        return image[..., : x.shape[-2], : x.shape[-1]]
