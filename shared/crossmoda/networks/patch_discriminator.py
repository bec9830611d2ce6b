"""The PatchGAN of contrastive translation."""

from __future__ import annotations

import torch
from torch import nn

from crossmoda.networks.blur import BlurDown
from crossmoda.networks.init import initialise


class AntialiasedPatchDiscriminator(nn.Module):
    """The PatchGAN whose strides are blur-pooling, as in CUT's code: 2.76 million parameters with 64 features.

    4x4 convolutions to `features` (1, 2, 4, 8) with LeakyReLU 0.2 and, but for the first, instance norm; each of the
    first three is followed by `BlurDown`. MONAI's `PatchDiscriminator` has strided convolutions; like it, this one
    returns a list whose last map holds the patch logits.

    Args:
        in_channels: channels of the images.
        features: channels after the first convolution.
        init: see `initialise`.
    """

    def __init__(self, in_channels: int = 1, features: int = 64, init: str = "xavier") -> None:
        super().__init__()
        sizes = [in_channels, features, 2 * features, 4 * features, 8 * features]
        stages = [_stage(sizes[i], sizes[i + 1], norm=i > 0, blur=i < 3) for i in range(4)]
        self.stages = nn.ModuleList([*stages, nn.Conv2d(sizes[-1], 1, 4, padding=1)])
        initialise(self, init)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, C, H, W) -> the stages' feature maps; the last one are the logits (B, 1, h, w)."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _stage(in_channels: int, out_channels: int, norm: bool, blur: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 4, padding=1)]
    if norm:
        layers.append(nn.InstanceNorm2d(out_channels))
    layers.append(nn.LeakyReLU(0.2, inplace=True))
    if blur:
        layers.append(BlurDown())
    return nn.Sequential(*layers)
