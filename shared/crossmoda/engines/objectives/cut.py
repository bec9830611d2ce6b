"""CUT and FastCUT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn

from crossmoda.engines.objectives.base import Batch, TranslationObjective
from crossmoda.losses import PatchNCELoss
from crossmoda.networks import pad_to_multiple

FLIP_AXIS = -2  # x in RAS: left-right


@dataclass(frozen=True)
class Translations:
    """What one pass of the generator leaves for both losses.

    Attributes:
        images: translations of the source slices, then, with the identity term, of the target slices.
        originals: what they are translations of, unflipped.
        features: tapped feature maps of `originals`.
        flipped: whether the generator saw the slices mirrored.
    """

    images: torch.Tensor
    originals: torch.Tensor
    features: list[torch.Tensor]
    flipped: bool


class CUT(TranslationObjective):
    """Contrastive unpaired translation (Park et al. 2020), as used by Chen 2023; with other options FastCUT.

    Least-squares adversarial loss, halved for the discriminator, without image pool; and PatchNCE: at random
    positions of several layers of the generator's encoder, the features of the translation must be closer to those
    of the source at the same position than at the others. The same for target slices, which shall pass unchanged
    (`identity_nce`). There is one generator and one discriminator.

    The discriminator learns first. Source and target slices pass the generator together, once a step: its image
    serves both losses, and its features are the keys, for which the authors' code runs the encoder once more. (With
    instance norm a slice does not depend on the others in its batch.) Positions are drawn once for all slices of a
    batch. Slices whose sizes the generator's `divisor` does not divide are padded.

    Args:
        generator: source to target, with `encode_taps`, `translate_with_taps` and `divisor` (`ResnetGenerator`).
        discriminator: judges target slices; returns a list of feature maps whose last one holds the patch logits.
            Its norm must not mix the slices of a batch.
        projector: heads for the tapped layers (`PatchProjector`).
        nce_layers: the generator's tapped layers (`ResnetGenerator.tap_channels`).
        n_patches: positions of each layer.
        lambda_nce: weight of the PatchNCE loss, relative to 1 for the adversarial loss.
        identity_nce: whether target slices count; source and target then weigh half each.
        flip_equivariance: mirror the generator's input with probability 0.5 and its features back (FastCUT).
        temperature: of PatchNCE.
    """

    discriminator_first = True

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        projector: nn.Module,
        nce_layers: Sequence[str] = ("padded", "down1", "down2", "block1", "block5"),
        n_patches: int = 256,
        lambda_nce: float = 1.0,
        identity_nce: bool = True,
        flip_equivariance: bool = False,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.projector = projector
        self.nce_layers = list(nce_layers)
        self.n_patches = n_patches
        self.lambda_nce = lambda_nce
        self.identity_nce = identity_nce
        self.flip_equivariance = flip_equivariance
        # Without the option MONAI sends least-squares logits through a LeakyReLU.
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.nce = PatchNCELoss(temperature)
        self._translations: Translations | None = None

    def translate(self, source: torch.Tensor) -> torch.Tensor:
        """Source slices -> pseudo-target slices."""
        return self.generator(source)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of the generator and the heads."""
        return [*self.generator.parameters(), *self.projector.parameters()]

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of the discriminator."""
        return list(self.discriminator.parameters())

    def discriminator_loss(self, batch: Batch) -> Batch:
        """Half the least-squares loss on real slices and on translations; translates for the generator loss too."""
        self._translations = self._translate(batch)
        count = len(batch["source"])
        fake = self._translations.images[:count].detach()
        real = pad_to_multiple(batch["target"], self.generator.divisor).to(fake.dtype)
        logits = self.discriminator(torch.cat([fake, real]))[-1].float()
        losses = [
            self.adversarial(part, target_is_real=is_real, for_discriminator=True)
            for part, is_real in ((logits[:count], False), (logits[count:], True))
        ]
        return {"discriminator_target": 0.5 * (losses[0] + losses[1])}

    def generator_loss(self, batch: Batch) -> Batch:
        """Adversarial loss of the translations, and PatchNCE of source and target slices."""
        if self._translations is None:
            raise RuntimeError("discriminator_loss must run on the batch before generator_loss")
        translations, self._translations = self._translations, None
        count = len(batch["source"])
        logits = self.discriminator(translations.images[:count])[-1].float()
        losses = {"adversarial_target": self.adversarial(logits, target_is_real=True, for_discriminator=False)}
        nce = self._patch_nce(translations)
        weight = 0.5 * self.lambda_nce if self.identity_nce else self.lambda_nce
        losses["nce_source"] = weight * nce[:count].mean()
        if self.identity_nce:
            losses["nce_target"] = weight * nce[count:].mean()
        return losses

    def select(self, layer: int, keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, N, C) to compare, keys and queries, of the feature maps (B, C, H, W) of a tapped layer."""
        size = keys.shape[-2] * keys.shape[-1]
        index = torch.randperm(size, device=keys.device)[: self.n_patches]
        keys, queries = (maps.flatten(2)[..., index].transpose(1, 2) for maps in (keys, queries))
        return keys.detach(), queries

    def _translate(self, batch: Batch) -> Translations:
        slices = [batch["source"], batch["target"]] if self.identity_nce else [batch["source"]]
        originals = pad_to_multiple(torch.cat(slices), self.generator.divisor)
        flipped = self.flip_equivariance and bool(torch.rand(()) < 0.5)
        if not flipped:
            images, features = self.generator.translate_with_taps(originals, self.nce_layers)
            return Translations(images, originals, features, flipped)
        with torch.no_grad():
            features = self.generator.encode_taps(originals, self.nce_layers)
        return Translations(self.generator(originals.flip(FLIP_AXIS)), originals, features, flipped)

    def _patch_nce(self, translations: Translations) -> torch.Tensor:
        """PatchNCE of each slice, the mean over the layers."""
        queries = self.generator.encode_taps(translations.images, self.nce_layers)
        if translations.flipped:
            queries = [maps.flip(FLIP_AXIS) for maps in queries]
        losses = []
        for layer, (key, query) in enumerate(zip(translations.features, queries, strict=True)):
            key, query = self.select(layer, key, query)
            with torch.no_grad():
                key = self.projector(key, layer)
            losses.append(self.nce(self.projector(query, layer), key))
        return torch.stack(losses).mean(0)
