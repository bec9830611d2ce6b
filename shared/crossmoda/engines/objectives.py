"""What an image translator minimises: the interface, and CycleGAN with and without segmenters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain

import torch
from monai.losses import DiceCELoss, PatchAdversarialLoss
from torch import nn
from torch.nn import functional as F

from crossmoda.engines.image_pool import ImagePool
from crossmoda.losses import KSpaceLoss
from crossmoda.networks import pad_to_multiple

Batch = dict[str, torch.Tensor]


class TranslationObjective(nn.Module, ABC):
    """Owns the networks of a translation method and answers three questions; `TranslationTrainer` does the rest.

    A batch holds `source` and `target`, unpaired slices (B, C, H, W) in [-1, 1], and `source_label` (B, 1, H, W),
    the label of `source`. No target label exists.

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

    def segment(self, target: torch.Tensor) -> torch.Tensor | None:
        """Label maps (B, 1, H, W) of target-like slices if the method has a segmenter for them, else None."""
        return None

    def preview(self, batch: Batch) -> Batch:
        """Named slices (B, 1, H, W) to look at, in the order of the picture's columns."""
        return {"source": batch["source"], "translated": self.translate(batch["source"]), "target": batch["target"]}


class CycleGAN(TranslationObjective):
    """CycleGAN (Zhu et al. 2017), as used by Li 2021 and Kang 2022, with an optional cycle loss in k-space.

    Least-squares adversarial loss, L1 cycle loss, L1 identity loss; the discriminators' losses are halved and see
    translations through an image pool.

    Args:
        generator: source to target, e.g. `ResnetGenerator`.
        reverse_generator: target to source.
        target_discriminator: judges target slices; returns a list of feature maps whose last one holds the patch
            logits (`monai.networks.nets.PatchDiscriminator`).
        source_discriminator: judges source slices.
        lambda_cycle: weight of the cycle loss, relative to 1 for the adversarial loss.
        lambda_identity: weight of |G(target) - target| and its counterpart; 0 leaves these passes out.
        lambda_kspace: weight of the cycle loss in k-space (Shin 2021).
        pool_size: images in each pool.
        seed: seed of the pools.
    """

    def __init__(
        self,
        generator: nn.Module,
        reverse_generator: nn.Module,
        target_discriminator: nn.Module,
        source_discriminator: nn.Module,
        lambda_cycle: float = 10.0,
        lambda_identity: float = 5.0,
        lambda_kspace: float = 0.0,
        pool_size: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.reverse_generator = reverse_generator
        self.target_discriminator = target_discriminator
        self.source_discriminator = source_discriminator
        self.lambda_cycle = lambda_cycle
        self.lambda_identity = lambda_identity
        self.lambda_kspace = lambda_kspace
        # Without the option MONAI sends least-squares logits through a LeakyReLU.
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.kspace = KSpaceLoss()
        self.target_pool = ImagePool(pool_size, seed)
        self.source_pool = ImagePool(pool_size, seed + 1)
        self._translations: Batch | None = None

    def translate(self, source: torch.Tensor) -> torch.Tensor:
        """Source slices -> pseudo-target slices."""
        return self.generator(source)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of both generators."""
        return [*self.generator.parameters(), *self.reverse_generator.parameters()]

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of both discriminators."""
        return list(chain(self.target_discriminator.parameters(), self.source_discriminator.parameters()))

    def generator_loss(self, batch: Batch) -> Batch:
        """Adversarial, cycle, identity and k-space terms of both directions."""
        images = self._cycle(batch)
        self._translations = {name: images[name].detach().float() for name in ("fake_target", "fake_source")}
        losses = {
            "adversarial_target": self._judge(self.target_discriminator, images["fake_target"], True, False),
            "adversarial_source": self._judge(self.source_discriminator, images["fake_source"], True, False),
        }
        for domain in ("source", "target"):
            reconstruction = images[f"reconstructed_{domain}"].float()
            losses[f"cycle_{domain}"] = self.lambda_cycle * F.l1_loss(reconstruction, batch[domain])
            if self.lambda_kspace:
                losses[f"kspace_{domain}"] = self.lambda_kspace * self.kspace(reconstruction, batch[domain])
        if self.lambda_identity:
            same_target = self.generator(batch["target"]).float()
            same_source = self.reverse_generator(batch["source"]).float()
            losses["identity_target"] = self.lambda_identity * F.l1_loss(same_target, batch["target"])
            losses["identity_source"] = self.lambda_identity * F.l1_loss(same_source, batch["source"])
        return losses

    def discriminator_loss(self, batch: Batch) -> Batch:
        """Half the least-squares loss on real slices and on pooled translations, for both discriminators."""
        if self._translations is None:
            raise RuntimeError("generator_loss must run on the batch before discriminator_loss")
        fakes, self._translations = self._translations, None
        losses = {}
        for domain, discriminator, pool in (
            ("target", self.target_discriminator, self.target_pool),
            ("source", self.source_discriminator, self.source_pool),
        ):
            real = self._judge(discriminator, batch[domain], True, True)
            fake = self._judge(discriminator, pool(fakes[f"fake_{domain}"]), False, True)
            losses[f"discriminator_{domain}"] = 0.5 * (real + fake)
        return losses

    def preview(self, batch: Batch) -> Batch:
        """Source, its translation, its reconstruction, and a real target slice."""
        fake = self.translate(batch["source"])
        reconstruction = self.reverse_generator(fake)
        return {
            "source": batch["source"],
            "translated": fake,
            "reconstructed": reconstruction,
            "target": batch["target"],
        }

    def _cycle(self, batch: Batch) -> Batch:
        fake_target = self.generator(batch["source"])
        fake_source = self.reverse_generator(batch["target"])
        return {
            "fake_target": fake_target,
            "fake_source": fake_source,
            "reconstructed_source": self.reverse_generator(fake_target),
            "reconstructed_target": self.generator(fake_source),
        }

    def _judge(self, discriminator: nn.Module, images: torch.Tensor, real: bool, training: bool) -> torch.Tensor:
        logits = discriminator(images)[-1].float()
        return self.adversarial(logits, target_is_real=real, for_discriminator=training)


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
