"""History of generated images for the discriminators."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import Randomizable
from torch import nn


class ImagePool(nn.Module, Randomizable):
    """Shows the discriminator former translations too, which damps oscillation (Shrivastava 2017, CycleGAN).

    While it fills, each image is stored and handed back. Once it is full, each image is with probability 0.5
    exchanged for a random stored one. MONAI has no such pool.

    The stored images and the random state are part of `state_dict`, so a continued run goes on with them.

    Args:
        size: images kept; 0 switches the pool off.
        seed: seed of the choices.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        super().__init__()
        self.size = size
        self.images: list[torch.Tensor] = []
        self.set_random_state(seed=seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), detached -> a batch of the same shape, partly of former images."""
        if self.size == 0:
            return images
        return torch.stack([self._exchange(image) for image in images])

    def get_extra_state(self) -> dict[str, Any]:
        """Stored images and random state as tensors and plain types (loads with `weights_only=True`)."""
        _, keys, position, has_gauss, cached = self.R.get_state()
        images = torch.stack(self.images) if self.images else torch.empty(0)
        # int64, because torch cannot store uint32 everywhere.
        return {"images": images, "random": [torch.from_numpy(keys.astype("int64")), position, has_gauss, cached]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the images and the random state of an earlier run."""
        self.images = list(state["images"])
        keys, position, has_gauss, cached = state["random"]
        self.R.set_state(("MT19937", keys.numpy().astype("uint32"), position, has_gauss, cached))

    def _exchange(self, image: torch.Tensor) -> torch.Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if self.R.random() < 0.5:
            return image
        index = self.R.randint(self.size)
        former = self.images[index].to(image.device)  # a resumed state comes back on the CPU
        self.images[index] = image
        return former
