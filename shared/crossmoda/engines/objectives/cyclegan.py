"""CycleGAN."""

from __future__ import annotations

from itertools import chain

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn
from torch.nn import functional as F

from crossmoda.engines.image_pool import ImagePool
from crossmoda.engines.objectives.base import Batch, TranslationObjective
from crossmoda.losses import KSpaceLoss


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
            for domain, same in self._same(batch).items():
                losses[f"identity_{domain}"] = self.lambda_identity * F.l1_loss(same.float(), batch[domain])
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

    def _same(self, batch: Batch) -> Batch:
        """Each domain's slices from the generator that makes such slices: they should stay as they are."""
        return {"target": self.generator(batch["target"]), "source": self.reverse_generator(batch["source"])}

    def _judge(self, discriminator: nn.Module, images: torch.Tensor, real: bool, training: bool) -> torch.Tensor:
        logits = discriminator(images)[-1].float()
        return self.adversarial(logits, target_is_real=real, for_discriminator=training)
