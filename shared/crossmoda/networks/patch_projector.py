"""Projection heads of contrastive translation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import exit_on_input_error
from crossmoda.networks.init import initialise
from crossmoda.networks.resnet_generator import ResnetGenerator


class PatchProjector(nn.Module):
    """A two-layer perceptron for each tapped layer of the generator, onto the unit sphere (Park 2020, 3.2).

    With the channels of ResNet-9's five layers (1, 128, 256, 256, 256) these are the 0.56 million parameters of CUT.
    The authors' code makes the heads in the first forward pass; here the channels are given, so that the optimizer
    and the checkpoint know them from the start. MONAI's contrastive loss projects whole images.

    Args:
        channels: channels of the tapped layers (`ResnetGenerator.tap_channels`).
        features: width of both layers.
        init: see `initialise`.
    """

    def __init__(self, channels: Sequence[int], features: int = 256, init: str = "xavier") -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(size, features), nn.ReLU(inplace=True), nn.Linear(features, features))
            for size in channels
        )
        initialise(self, init)

    def forward(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        """Feature vectors (B, N, C) of a tapped layer -> unit vectors (B, N, features) in float32."""
        return F.normalize(self.heads[layer](rows).float(), dim=-1, eps=1e-7)


def patch_projector(
    generator: ResnetGenerator, layers: Sequence[str], features: int = 256, init: str = "xavier"
) -> PatchProjector:
    """Heads for the tapped layers of a generator.

    Raises:
        InputError: if the generator has no such layers.
    """
    return PatchProjector(generator.tap_channels(layers), features, init)


patch_projector_or_exit = exit_on_input_error(patch_projector)
