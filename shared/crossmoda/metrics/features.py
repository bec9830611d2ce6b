"""Features of slices from a fixed network, for distances between sets of images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CHANNELS = (16, 32, 48)


class FixedFeatures(nn.Module):
    """A small random convolutional network that is the same for ever, without any file of weights.

    The Fréchet inception distance needs a network trained on photographs, whose weights not every machine can fetch.
    Random convolutions see intensities, edges and texture as well, if not objects. Three levels of 3x3 convolution,
    modulus (as in scattering networks: no channel is ever dead) and 2x2 average pooling; the features are each
    channel's mean over the slice at each level, 96 in all. The kernels are drawn by `numpy.random.RandomState(0)`,
    whose stream NumPy guarantees not to change, with He scaling. Values compare between runs of this code only, not
    with published FIDs.
    """

    def __init__(self) -> None:
        super().__init__()
        random = np.random.RandomState(0)
        channels = (1, *CHANNELS)
        for level, (before, after) in enumerate(pairwise(channels)):
            kernel = random.standard_normal((after, before, 3, 3)) * np.sqrt(2 / (9 * before))
            self.register_buffer(f"kernel_{level}", torch.from_numpy(kernel.astype(np.float32)))

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Slices (B, 1, H, W) in [-1, 1], H and W at least 8, -> features (B, 96)."""
        features = []
        for level in range(len(CHANNELS)):
            image = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), getattr(self, f"kernel_{level}")).abs()
            features.append(image.mean((-2, -1)))
            image = F.avg_pool2d(image, 2)
        return torch.cat(features, 1)
