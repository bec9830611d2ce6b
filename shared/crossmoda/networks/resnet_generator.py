"""The residual generator of CycleGAN."""

from __future__ import annotations

import torch
from torch import nn

from crossmoda.networks.init import init_normal
from crossmoda.networks.padding import pad_to_multiple


class ResnetBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions with instance norm, added to the input.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.layers(x)


class ResnetGenerator(nn.Module):
    """Translates slices: 7x7 stem, two strided convolutions, residual blocks, two transposed convolutions, tanh.

    With 64 features and 9 blocks this is the ResNet-9 of Zhu et al. 2017 (CycleGAN), which Li 2021 and Kang 2022
    use: 11.4 million parameters, instance norm without affine parameters, weights from N(0, 0.02^2).
    Slices whose sizes are no multiple of 4 are padded inside and cut back.

    `encode` and `decode` split it where a segmentation decoder can share the encoder (Shin 2021). MONAI has no
    residual generator with reflection padding.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels after the stem; doubled by each strided convolution.
        n_blocks: residual blocks at a quarter of the resolution.

    Example:
        >>> ResnetGenerator(features=8, n_blocks=1)(torch.zeros(1, 1, 30, 34)).shape
        torch.Size([1, 1, 30, 34])
    """

    divisor = 4

    def __init__(self, in_channels: int = 1, out_channels: int = 1, features: int = 64, n_blocks: int = 9) -> None:
        super().__init__()
        self.feature_channels = (features, 2 * features, 4 * features)
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, features, 7),
            nn.InstanceNorm2d(features),
            nn.ReLU(inplace=True),
        )
        self.down1 = _down(features)
        self.down2 = _down(2 * features)
        self.blocks = nn.Sequential(*[ResnetBlock(4 * features) for _ in range(n_blocks)])
        self.head = nn.Sequential(
            *_up(4 * features),
            *_up(2 * features),
            nn.ReflectionPad2d(3),
            nn.Conv2d(features, out_channels, 7),
            nn.Tanh(),
        )
        init_normal(self)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps at full, half and quarter resolution of slices (B, C, H, W) whose sizes `divisor` divides."""
        full = self.stem(x)
        half = self.down1(full)
        return [full, half, self.blocks(self.down2(half))]

    def decode(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The image (B, out_channels, H, W) in [-1, 1]; only the deepest map is used, as there are no skips."""
        return self.head(features[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate slices (B, in_channels, H, W) in [-1, 1] to (B, out_channels, H, W) in [-1, 1]."""
        image = self.decode(self.encode(pad_to_multiple(x, 4)))
        return image[..., : x.shape[-2], : x.shape[-1]]


def _down(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.InstanceNorm2d(2 * channels),
        nn.ReLU(inplace=True),
    )


def _up(channels: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1),
        nn.InstanceNorm2d(channels // 2),
        nn.ReLU(inplace=True),
    ]
