"""MSF-Net."""

from __future__ import annotations

from itertools import chain

import torch
from monai.losses import DiceCELoss, PatchAdversarialLoss
from torch import nn

from crossmoda.engines.objectives.base import Batch, TranslationObjective, middle_slice


class MSFNet(TranslationObjective):
    r"""One encoder for both modalities, a decoder for each, and decoders for two proxy tasks (Han 2022, 3.2).

    The encoder E and the decoders $G_{T1}$, $G_{T2}$ reconstruct each modality and translate between them; $G_{vs}$ and
    $G_{gif}$ find VS with cochlea and the brain's parcels on the ceT1 and on its translation (the second only in the
    code), so that translations keep the structures. Terms, with the weights of the paper or its code:

    - 10 x reconstruction $G_m(E(I_m))$ and 10 x cycle, both modalities (smooth L1 in the code, L1 in the paper);
    - 0.01 x perceptual, of the reconstructions;
    - 1 x least-squares adversarial, whose discriminators learn first and see the same translations;
    - 1 x Dice + cross entropy of each proxy task.

    Both modalities go through each network in one pass, which instance norm makes equal to one after the other; the
    translations judged by the discriminators are those that the generators then learn from (the code makes them twice).

    Args:
        generator: E and $G_{T2}$ (`MSFGenerator`): source to target.
        source_decoder: $G_{T1}$ (`MSFDecoder`).
        target_discriminator: judges target slices; returns logits (`MSFDiscriminator`).
        source_discriminator: judges source slices.
        segmenter: $G_{vs}$ (`MSFProxyDecoder`).
        parcellator: $G_{gif}$ (`MSFProxyDecoder`); batches then hold `source_parcellation`.
        perceptual: of two batches of three slices; None leaves the term out.
        reconstruction_loss: of reconstructions and cycles; default smooth L1.
        segmentation_loss: of logits (B, classes, H, W) and labels (B, 1, H, W); default soft Dice of each sample,
            background included, smoothed by 1, + cross entropy.
        parcellation_loss: the same for the parcellation.
        lambda_reconstruction: weight of the reconstructions, relative to 1 for the adversarial loss.
        lambda_perceptual: weight of the perceptual loss.
        lambda_cycle: weight of the cycles.
        lambda_segmentation: weight of each segmentation loss; 0 leaves $G_{vs}$ out.
        lambda_parcellation: weight of each parcellation loss; 0 leaves $G_{gif}$ out.
    """

    discriminator_first = True  # Han 2022, code

    def __init__(
        self,
        generator: nn.Module,
        source_decoder: nn.Module,
        target_discriminator: nn.Module,
        source_discriminator: nn.Module,
        segmenter: nn.Module,
        parcellator: nn.Module,
        perceptual: nn.Module | None = None,
        reconstruction_loss: nn.Module | None = None,
        segmentation_loss: nn.Module | None = None,
        parcellation_loss: nn.Module | None = None,
        lambda_reconstruction: float = 10.0,
        lambda_perceptual: float = 0.01,
        lambda_cycle: float = 10.0,
        lambda_segmentation: float = 1.0,
        lambda_parcellation: float = 1.0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.source_decoder = source_decoder
        self.target_discriminator = target_discriminator
        self.source_discriminator = source_discriminator
        self.segmenter = segmenter if lambda_segmentation else None
        self.parcellator = parcellator if lambda_parcellation else None
        self.perceptual = perceptual if lambda_perceptual else None
        self.reconstruction_loss = reconstruction_loss or nn.SmoothL1Loss()
        self.segmentation_loss = segmentation_loss or dice_ce()
        self.parcellation_loss = parcellation_loss or dice_ce()
        self.lambda_reconstruction = lambda_reconstruction
        self.lambda_perceptual = lambda_perceptual
        self.lambda_cycle = lambda_cycle
        self.lambda_segmentation = lambda_segmentation
        self.lambda_parcellation = lambda_parcellation
        # Without the option MONAI sends least-squares logits through a LeakyReLU.
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self._images: Batch | None = None

    def translate(self, source: torch.Tensor) -> torch.Tensor:
        """Adjacent source slices -> adjacent pseudo-target slices."""
        return self.generator(source)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder and of all decoders."""
        networks = (self.generator, self.source_decoder, self.segmenter, self.parcellator)
        return list(chain.from_iterable(network.parameters() for network in networks if network is not None))

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of both discriminators."""
        return [*self.target_discriminator.parameters(), *self.source_discriminator.parameters()]

    def discriminator_loss(self, batch: Batch) -> Batch:
        """Least squares on real slices and on translations, for both discriminators."""
        self._images = self._translate(batch)
        losses = {}
        for domain, discriminator in self._discriminators():
            real = self._judge(discriminator, batch[domain], True)
            fake = self._judge(discriminator, self._images[f"fake_{domain}"].detach(), False)
            losses[f"discriminator_{domain}"] = real + fake
        return losses

    def generator_loss(self, batch: Batch) -> Batch:
        """Reconstruction, perceptual, cycle and adversarial terms, and those of the proxy tasks."""
        if self._images is None:
            raise RuntimeError("discriminator_loss must run on the batch before generator_loss")
        images, self._images = self._images, None
        images |= self._translate_back(images)
        losses = {}
        for domain, discriminator in self._discriminators():
            losses[f"adversarial_{domain}"] = self._judge(discriminator, images[f"fake_{domain}"], True)
        for name, weight in (("reconstruction", self.lambda_reconstruction), ("cycle", self.lambda_cycle)):
            for domain in ("source", "target"):
                image = images[f"{name}_{domain}"].float()
                losses[f"{name}_{domain}"] = weight * self.reconstruction_loss(image, batch[domain])
        if self.perceptual is not None:
            reconstructions = torch.cat([images["reconstruction_source"], images["reconstruction_target"]])
            mean = self.perceptual(reconstructions, torch.cat([batch["source"], batch["target"]]))
            losses["perceptual"] = self.lambda_perceptual * 2 * mean  # the sum of both modalities
        return losses | self._proxy_losses(images, batch)

    def segment(self, target: torch.Tensor) -> torch.Tensor | None:
        """Label maps (B, 1, H, W) of the middle of adjacent target-like slices."""
        if self.segmenter is None:
            return None
        return _classes(self.segmenter, self.generator.encoder(target), target)

    def preview(self, batch: Batch) -> Batch:
        """Source, translation, cycle, real target; the label, and what the proxies find on the translation."""
        source, target = batch["source"], batch["target"]
        fake = self.translate(source)
        features = self.generator.encoder(fake)
        images = {
            "source": source,
            "translated": fake,
            "cycle": _cut(self.source_decoder(features), source),
            "target": target,
        }
        columns = {name: middle_slice(image) for name, image in images.items()}
        if self.segmenter is not None:
            # Labels 0, 1, 2 shown as -1, 0, 1.
            columns["label"] = batch["source_label"].float() - 1
            columns["segmented"] = _classes(self.segmenter, features, source).float() - 1
        if self.parcellator is not None:
            found = _classes(self.parcellator, features, source)
            truth = batch["source_parcellation"]
            scale = 2 / max(int(truth.max()), int(found.max()), 1)
            columns["parcellation"] = truth.float() * scale - 1
            columns["parcelled"] = found.float() * scale - 1
        return columns

    def _translate(self, batch: Batch) -> Batch:
        """Translations and reconstructions of both modalities, and the encoder's features of the source."""
        source = batch["source"]
        features = self.generator.encoder(torch.cat([source, batch["target"]]))
        as_source = _cut(self.source_decoder(features), source).chunk(2)
        as_target = _cut(self.generator.decoder(features), source).chunk(2)
        return {
            "reconstruction_source": as_source[0],
            "fake_source": as_source[1],
            "fake_target": as_target[0],
            "reconstruction_target": as_target[1],
            "features_source": features.chunk(2)[0],
        }

    def _translate_back(self, images: Batch) -> Batch:
        """The way back of both translations, and the encoder's features of the pseudo-target."""
        features = self.generator.encoder(torch.cat([images["fake_target"], images["fake_source"]])).chunk(2)
        return {
            "cycle_source": _cut(self.source_decoder(features[0]), images["fake_target"]),
            "cycle_target": _cut(self.generator.decoder(features[1]), images["fake_source"]),
            "features_fake": features[0],
        }

    def _proxy_losses(self, images: Batch, batch: Batch) -> Batch:
        losses = {}
        features = torch.cat([images["features_source"], images["features_fake"]])
        for name, decoder, loss, weight, truth in (
            ("segmentation", self.segmenter, self.segmentation_loss, self.lambda_segmentation, "source_label"),
            ("parcellation", self.parcellator, self.parcellation_loss, self.lambda_parcellation, "source_parcellation"),
        ):
            if decoder is None:
                continue
            on_source, on_fake = _cut(decoder(features), batch["source"]).float().chunk(2)
            losses[f"{name}_source"] = weight * loss(on_source, batch[truth])
            losses[f"{name}_fake"] = weight * loss(on_fake, batch[truth])
        return losses

    def _discriminators(self) -> tuple[tuple[str, nn.Module], tuple[str, nn.Module]]:
        return ("target", self.target_discriminator), ("source", self.source_discriminator)

    def _judge(self, discriminator: nn.Module, images: torch.Tensor, real: bool) -> torch.Tensor:
        return self.adversarial(discriminator(images).float(), target_is_real=real, for_discriminator=True)


def dice_ce() -> DiceCELoss:
    """Soft Dice (softmax, background included, smoothed by 1) of each sample + cross entropy (Han 2022, code)."""
    return DiceCELoss(to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0)


def _classes(decoder: nn.Module, features: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return _cut(decoder(features), like).argmax(1, keepdim=True)


def _cut(images: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Takes away what the encoder padded."""
    return images[..., : like.shape[-2], : like.shape[-1]]
