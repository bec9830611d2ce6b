"""The residual generator of CycleGAN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from crossmoda.errors import InputError
from crossmoda.networks.blur import BlurDown, BlurUp
from crossmoda.networks.init import initialise
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

    `encode` and `decode` split it where a segmentation decoder can share the encoder (Shin 2021). `encode_taps` and
    `translate_with_taps` give out the layers that contrastive losses compare (Park 2020): "padded", the reflected
    input; "down1" and "down2", the outputs of the second and third convolution, before their norm; "block1",
    "block2", ..., the outputs of the residual blocks. MONAI has no residual generator with reflection padding.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels after the stem; doubled by each strided convolution.
        n_blocks: residual blocks at a quarter of the resolution.
        antialiased: blur-pooling behind unstrided convolutions for the strided ones, and blurred upsampling before
            3x3 convolutions for the transposed ones (Park 2020, code). The parameters are as many, but those two
            levels cost four times as much.
        init: see `initialise`.

    Example:
        >>> ResnetGenerator(features=8, n_blocks=1)(torch.zeros(1, 1, 30, 34)).shape
        torch.Size([1, 1, 30, 34])
    """

    divisor = 4

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        features: int = 64,
        n_blocks: int = 9,
        antialiased: bool = False,
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.feature_channels = (features, 2 * features, 4 * features)
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, features, 7),
            nn.InstanceNorm2d(features),
            nn.ReLU(inplace=True),
        )
        self.down1 = _down(features, antialiased)
        self.down2 = _down(2 * features, antialiased)
        self.blocks = nn.Sequential(*[ResnetBlock(4 * features) for _ in range(n_blocks)])
        self.head = nn.Sequential(
            *_up(4 * features, antialiased),
            *_up(2 * features, antialiased),
            nn.ReflectionPad2d(3),
            nn.Conv2d(features, out_channels, 7),
            nn.Tanh(),
        )
        initialise(self, init)

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

    def tap_channels(self, taps: Sequence[str]) -> list[int]:
        """Channels of the tapped layers.

        Raises:
            InputError: if there is no such layer, or the taps are not in the network's order.
        """
        _, double, deep = self.feature_channels
        channels = {"padded": self.in_channels, "down1": double, "down2": deep}
        channels |= {f"block{i + 1}": deep for i in range(len(self.blocks))}
        if [name for name in channels if name in taps] != list(taps):
            raise InputError(f"nce_layers: name some of {', '.join(channels)}, in this order; not {', '.join(taps)}")
        return [channels[name] for name in taps]

    def encode_taps(self, x: torch.Tensor, taps: Sequence[str]) -> list[torch.Tensor]:
        """Feature maps of the tapped layers of slices (B, C, H, W) whose sizes `divisor` divides; runs no further."""
        maps = []
        for name, features in self._layers(x):
            if name in taps:
                maps.append(features)
            if name == taps[-1]:
                break
        return maps

    def translate_with_taps(self, x: torch.Tensor, taps: Sequence[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The image and the tapped feature maps of one pass, of slices whose sizes `divisor` divides."""
        maps = []
        for name, features in self._layers(x):
            if name in taps:
                maps.append(features)
        return self.head(features), maps

    def _layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The layers that can be tapped, one after the other; the last one is what `decode` takes."""
        x = self.stem[0](x)
        yield "padded", x
        x = self.down1[0](self.stem[1:](x))
        yield "down1", x
        x = self.down2[0](self.down1[1:](x))
        yield "down2", x
        x = self.down2[1:](x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            yield f"block{i + 1}", x


def _down(channels: int, antialiased: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels, 2 * channels, 3, stride=1 if antialiased else 2, padding=1),
        nn.InstanceNorm2d(2 * channels),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, BlurDown()) if antialiased else nn.Sequential(*layers)


def _up(channels: int, antialiased: bool) -> list[nn.Module]:
    if antialiased:
        resize: list[nn.Module] = [BlurUp(), nn.Conv2d(channels, channels // 2, 3, padding=1)]
    else:
        resize = [nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)]
    return [*resize, nn.InstanceNorm2d(channels // 2), nn.ReLU(inplace=True)]
