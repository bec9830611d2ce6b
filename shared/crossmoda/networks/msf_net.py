"""The parts of MSF-Net (Han 2022): one encoder for both modalities, decoders for images and for labels."""

from __future__ import annotations

import torch
from torch import nn

from crossmoda.networks.padding import pad_to_multiple
from crossmoda.networks.resnet_generator import ResnetBlock

SLOPE = 0.2  # of the leaky ReLUs; Han 2022, code


class MSFEncoder(nn.Module):
    """Slices of any modality -> the shared representation at a quarter of the resolution.

    7x7 convolution, two strided 3x3 convolutions, residual blocks; instance norm without affine parameters. With 64
    features and 6 blocks 7.46 million parameters. The first convolution's reflection padding and the norm behind it
    take the input's gain and offset away.

    Args:
        in_channels: adjacent slices.
        features: channels after the first convolution; doubled by each strided convolution.
        n_blocks: residual blocks.
    """

    def __init__(self, in_channels: int = 3, features: int = 64, n_blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, features, 7, padding=3, padding_mode="reflect"),
            *_norm_act(features),
            nn.Conv2d(features, 2 * features, 3, stride=2, padding=1),
            *_norm_act(2 * features),
            nn.Conv2d(2 * features, 4 * features, 3, stride=2, padding=1),
            *_norm_act(4 * features),
            *[ResnetBlock(4 * features) for _ in range(n_blocks)],
        )
        init_msf(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> (B, 4 features, ceil(H / 4), ceil(W / 4)); cut what decoders make of it to H, W."""
        return self.layers(pad_to_multiple(x, 4))


class MSFDecoder(nn.Module):
    """The shared representation -> adjacent slices of one modality, in [-1, 1].

    Residual blocks, two transposed 4x4 convolutions, 7x7 convolution, tanh. With 64 features, 6 blocks and 3 channels
    7.75 million parameters.

    Args:
        out_channels: adjacent slices.
        features: as the encoder's.
        n_blocks: residual blocks.
    """

    def __init__(self, out_channels: int = 3, features: int = 64, n_blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[ResnetBlock(4 * features) for _ in range(n_blocks)],
            nn.ConvTranspose2d(4 * features, 2 * features, 4, stride=2, padding=1),
            *_norm_act(2 * features),
            nn.ConvTranspose2d(2 * features, features, 4, stride=2, padding=1),
            *_norm_act(features),
            nn.Conv2d(features, out_channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        init_msf(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 4 features, H, W) -> (B, out_channels, 4 H, 4 W)."""
        return self.layers(features)


class MSFProxyDecoder(nn.Module):
    """The shared representation -> class logits of the middle slice: the proxy tasks.

    Residual blocks, twice nearest-neighbour upsampling and a 3x3 convolution, 1x1 convolution. With 64 features and 6
    blocks 7.45 million parameters for 3 classes, 7.46 million for the 209 of GIF.

    Args:
        classes: classes, background included.
        features: as the encoder's.
        n_blocks: residual blocks.
    """

    def __init__(self, classes: int, features: int = 64, n_blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[ResnetBlock(4 * features) for _ in range(n_blocks)],
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(4 * features, 2 * features, 3, padding=1),
            *_norm_act(2 * features),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(2 * features, features, 3, padding=1),
            *_norm_act(features),
            nn.Conv2d(features, classes, 1),
        )
        init_msf(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 4 features, H, W) -> (B, classes, 4 H, 4 W)."""
        return self.layers(features)


class MSFGenerator(nn.Module):
    """Translates adjacent slices: the shared encoder and the decoder of the modality wanted.

    All that inference needs of MSF-Net. Slices whose sizes are no multiple of 4 are padded inside and cut back.

    Args:
        channels: adjacent slices, of input and output.
        features: channels after the first convolution.
        n_blocks: residual blocks of the encoder and of the decoder.

    Example:
        >>> MSFGenerator(features=8, n_blocks=1)(torch.zeros(1, 3, 30, 34)).shape
        torch.Size([1, 3, 30, 34])
    """

    def __init__(self, channels: int = 3, features: int = 64, n_blocks: int = 6) -> None:
        super().__init__()
        self.encoder = MSFEncoder(channels, features, n_blocks)
        self.decoder = MSFDecoder(channels, features, n_blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate slices (B, channels, H, W) in [-1, 1] to (B, channels, H, W) in [-1, 1]."""
        return self.decoder(self.encoder(x))[..., : x.shape[-2], : x.shape[-1]]


class MSFDiscriminator(nn.Module):
    """PatchGAN on a random crop, with batch norm and a cap on its channels (Han 2022, code).

    4x4 convolutions: `layers` with stride 2 and one with stride 1, their channels doubling up to 8 `features`, then
    one logit a place; leaky ReLU 0.2; no norm in the first and the last. Six layers see a crop of 224 pixels whole and
    give one logit. MONAI's `PatchDiscriminator` doubles the channels without a cap (to 4096 here) and takes no crop.

    The crop is drawn from torch's global generator, one for the batch. An axis shorter than the crop is taken whole.

    Args:
        in_channels: adjacent slices.
        features: channels of the first convolution.
        layers: convolutions with stride 2.
        crop_size: edge of the crop in pixels.

    Raises:
        ValueError: if `crop_size` is too small for so many layers.
    """

    def __init__(self, in_channels: int = 3, features: int = 64, layers: int = 6, crop_size: int = 224) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.smallest = 3 * 2**layers  # leaves 3 pixels after the strides, and one after the last two convolutions
        self._check_size(crop_size, "crop_size")
        channels = [features * min(2**layer, 8) for layer in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(in_channels, features, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE, True)]
        for layer in range(1, layers + 1):
            stride = 2 if layer < layers else 1
            modules += [
                nn.Conv2d(channels[layer - 1], channels[layer], 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels[layer]),
                nn.LeakyReLU(SLOPE, True),
            ]
        self.layers = nn.Sequential(*modules, nn.Conv2d(channels[-1], 1, 4, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Slices (B, in_channels, H, W) in [-1, 1] -> logits (B, 1, H', W') of a crop."""
        windows = []
        for size in x.shape[-2:]:
            self._check_size(size, "slices")
            start = int(torch.randint(max(size - self.crop_size, 0) + 1, ()))
            windows.append(slice(start, start + self.crop_size))
        return self.layers(x[:, :, windows[0], windows[1]])

    def _check_size(self, size: int, name: str) -> None:
        if size < self.smallest:
            raise ValueError(
                f"{name} of {size} pixels are too small for the discriminator, which needs {self.smallest}:"
                " lower discriminator_layers"
            )


def init_msf(network: nn.Module) -> None:
    """Kaiming normal weights (fan in) of the convolutions, zero biases everywhere (Han 2022, code).

    Transposed convolutions keep torch's weights: a norm follows each of them.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def _norm_act(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True)]
