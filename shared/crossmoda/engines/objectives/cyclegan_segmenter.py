"""CycleGAN with segmentation decoders on the generators' encoders."""

from __future__ import annotations

from itertools import chain

import torch
from monai.losses import DiceCELoss
from torch import nn

from crossmoda.engines.objectives.base import Batch
from crossmoda.engines.objectives.cyclegan import CycleGAN
from crossmoda.networks import pad_to_multiple


class CycleGANSegmenter(CycleGAN):
    """CycleGAN with a segmentation decoder on each generator's encoder (Shin 2021, section 2.1).

    The source segmenter shares the encoder of `generator` and sees real source slices; the target segmenter shares
    the encoder of `reverse_generator` and sees translated slices. Both are supervised by the source's label, so the
    translation must keep VS and cochlea where they are. Each encoder runs once for image and label.

    Args:
        source_segmenter: decoder of `generator.encode`'s features into class logits (`UNetDecoder`).
        target_segmenter: decoder of `reverse_generator.encode`'s features into class logits.
        lambda_segmentation: weight of each segmentation loss (100 in the paper).
        fake_segmentation_after: epochs before the loss on translated slices enters (5 in the paper).
        segmentation_loss: of logits (B, classes, H, W) and labels (B, 1, H, W); default Dice over the foreground
            classes of the whole batch + cross entropy, because a slice often holds no target at all. Open in the
            paper.
        **options: those of `CycleGAN`; both generators must offer `encode`, `decode` and `divisor`.
    """

    def __init__(
        self,
        source_segmenter: nn.Module,
        target_segmenter: nn.Module,
        lambda_segmentation: float = 100.0,
        fake_segmentation_after: int = 5,
        segmentation_loss: nn.Module | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        self.source_segmenter = source_segmenter
        self.target_segmenter = target_segmenter
        self.lambda_segmentation = lambda_segmentation
        self.fake_segmentation_after = fake_segmentation_after
        self.segmentation_loss = segmentation_loss or DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )
        self._logits: Batch = {}

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of both generators and both segmenters."""
        segmenters = chain(self.source_segmenter.parameters(), self.target_segmenter.parameters())
        return [*super().generator_parameters(), *segmenters]

    def generator_loss(self, batch: Batch) -> Batch:
        """CycleGAN's terms, the segmentation of real source slices, and later that of their translations."""
        losses = super().generator_loss(batch)
        logits, self._logits = self._logits, {}
        label = batch["source_label"]
        losses["segmentation_source"] = self.lambda_segmentation * self.segmentation_loss(logits["source"], label)
        if "fake_target" in logits:
            term = self.segmentation_loss(logits["fake_target"], label)
            losses["segmentation_fake"] = self.lambda_segmentation * term
        return losses

    def segment(self, target: torch.Tensor) -> torch.Tensor:
        """Label maps (B, 1, H, W) of target-like slices (B, 1, H, W)."""
        padded = pad_to_multiple(target, self.reverse_generator.divisor)
        logits = self.target_segmenter(self.reverse_generator.encode(padded))
        return logits[..., : target.shape[-2], : target.shape[-1]].argmax(1, keepdim=True)

    def preview(self, batch: Batch) -> Batch:
        """CycleGAN's columns, the source's label, and the segmentation of its translation."""
        columns = super().preview(batch)
        # Labels 0, 1, 2 shown as -1, 0, 1.
        columns["label"] = batch["source_label"].float() - 1
        columns["segmented"] = self.segment(columns["translated"]).float() - 1
        return columns

    def _cycle(self, batch: Batch) -> Batch:
        fake_target, self._logits["source"] = _image_and_logits(self.generator, self.source_segmenter, batch["source"])
        if self.epoch > self.fake_segmentation_after:
            reconstruction, self._logits["fake_target"] = _image_and_logits(
                self.reverse_generator, self.target_segmenter, fake_target
            )
        else:
            reconstruction = self.reverse_generator(fake_target)
        fake_source = self.reverse_generator(batch["target"])
        return {
            "fake_target": fake_target,
            "fake_source": fake_source,
            "reconstructed_source": reconstruction,
            "reconstructed_target": self.generator(fake_source),
        }


def _image_and_logits(generator: nn.Module, segmenter: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Translation (B, 1, H, W) and class logits (B, classes, H, W), in float32, from one pass of the encoder."""
    features = generator.encode(pad_to_multiple(x, generator.divisor))
    height, width = x.shape[-2:]
    return generator.decode(features)[..., :height, :width], segmenter(features)[..., :height, :width].float()
