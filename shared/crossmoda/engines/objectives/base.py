"""The interface of image translation methods."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

Batch = dict[str, torch.Tensor]


class TranslationObjective(nn.Module, ABC):
    """Owns the networks of a translation method and answers three questions; `TranslationTrainer` does the rest.

    A batch holds `source` and `target`, unpaired slices (B, C, H, W) in [-1, 1], and `source_label` (B, 1, H, W),
    the label of `source`, of its middle slice if C adjacent slices are the channels. No target label exists. If the
    data were asked for them: `source_parcellation` (B, 1, H, W), and `source_site` and `target_site` (B,).

    To add a method: subclass, implement the abstract methods, and write an overlay in
    `bundles/translation/configs/methods`.
    """

    discriminator_first = False
    """True for methods whose discriminators are updated before the generators (CUT, MSF-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1

    @abstractmethod
    def translate(self, source: torch.Tensor) -> torch.Tensor:
        """Source slices -> slices that look like the target's, same shape and range."""

    @abstractmethod
    def generator_parameters(self) -> list[nn.Parameter]:
        """Everything that the generator loss trains, segmenters and projection heads included."""

    @abstractmethod
    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Everything that the discriminator loss trains."""

    @abstractmethod
    def generator_loss(self, batch: Batch) -> Batch:
        """Named scalar losses, already weighted: the trainer minimises their sum.

        The discriminators' parameters are frozen meanwhile. What the discriminator loss can use again (the
        translations) is kept, so that the generators run once a step.
        """

    @abstractmethod
    def discriminator_loss(self, batch: Batch) -> Batch:
        """Named scalar losses of the same batch, already weighted; translations are detached."""

    def start_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch (from 1), for losses that enter later."""
        self.epoch = epoch

    def conditions(self, batch: Batch) -> Batch:
        """What `translate` takes by name beside the source slices, of a batch (a site code, say); here nothing."""
        return {}

    def segment(self, target: torch.Tensor) -> torch.Tensor | None:
        """Label maps (B, 1, H, W) of target-like slices if the method has a segmenter for them, else None."""
        return None

    def preview(self, batch: Batch) -> Batch:
        """Named slices (B, 1, H, W) to look at, in the order of the picture's columns."""
        return {"source": batch["source"], "translated": self.translate(batch["source"]), "target": batch["target"]}


def middle_slice(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) with an odd number of adjacent slices as channels -> (B, 1, H, W), the middle one."""
    middle = images.shape[1] // 2
    return images[:, middle : middle + 1]
