"""CycleGAN whose generators and discriminators know the sites."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.engines.objectives.base import Batch
from crossmoda.engines.objectives.cyclegan import CycleGAN


class SiteCycleGAN(CycleGAN):
    """CycleGAN conditioned on sites: source slices become target slices of a chosen site, and back.

    Our own, of no paper. A source slice is translated into the site of the target slice that it was drawn with, and
    reconstructed in its own site. Each discriminator gives one map of logits a site, of which the loss takes that of
    the site that a slice ought to be of (as in StarGAN v2, Choi 2020), so that a translation in another site's style is
    rejected. Site codes as constant input channels (Mirza 2014) moved the phantom's translations half as far towards
    the site in a run of four epochs: the instance norms behind them take constants away.

    Batches hold `source_site` and `target_site` beside the rest, indices (B,) into the generators' sites.

    Args:
        generator: source to target, a `SiteGenerator`.
        reverse_generator: target to source, a `SiteGenerator` of the same sites.
        **options: those of `CycleGAN`; the discriminators have as many output channels as there are sites.
    """

    def __init__(self, generator: nn.Module, reverse_generator: nn.Module, **options) -> None:
        super().__init__(generator, reverse_generator, **options)
        self.n_sites = generator.n_sites

    def translate(self, source: torch.Tensor, code: torch.Tensor | None = None) -> torch.Tensor:
        """Source slices -> pseudo-target slices of the sites in `code` (B, sites); default the generator's own."""
        return self.generator(source, code)

    def conditions(self, batch: Batch) -> Batch:
        """Validation slices, too, are translated into the site of the target slices beside them."""
        return {"code": self._code(batch, "target")}

    def generator_loss(self, batch: Batch) -> Batch:
        """CycleGAN's terms."""
        _require_sites(batch)
        return super().generator_loss(batch)

    def discriminator_loss(self, batch: Batch) -> Batch:
        """CycleGAN's terms; the codes go with the translations through the image pools."""
        return super().discriminator_loss({domain: self._labelled(batch, domain) for domain in ("target", "source")})

    def preview(self, batch: Batch) -> Batch:
        """Source, its translation into each site, and a real target slice."""
        codes = torch.eye(self.n_sites, device=batch["source"].device)
        columns = {f"translated_{i}": self.translate(batch["source"], code[None]) for i, code in enumerate(codes)}
        return {"source": batch["source"], **columns, "target": batch["target"]}

    def _cycle(self, batch: Batch) -> Batch:
        source_code, target_code = self._code(batch, "source"), self._code(batch, "target")
        fake_target = self.generator(batch["source"], target_code)
        fake_source = self.reverse_generator(batch["target"], source_code)
        return {
            "fake_target": _with_channels(fake_target, target_code),
            "fake_source": _with_channels(fake_source, source_code),
            "reconstructed_source": self.reverse_generator(fake_target, source_code),
            "reconstructed_target": self.generator(fake_source, target_code),
        }

    def _same(self, batch: Batch) -> Batch:
        return {
            "target": self.generator(batch["target"], self._code(batch, "target")),
            "source": self.reverse_generator(batch["source"], self._code(batch, "source")),
        }

    def _judge(self, discriminator: nn.Module, images: torch.Tensor, real: bool, training: bool) -> torch.Tensor:
        slices, code = images[:, : -self.n_sites], images[:, -self.n_sites :, 0, 0].float()
        logits = (discriminator(slices)[-1].float() * code[:, :, None, None]).sum(1, keepdim=True)
        return self.adversarial(logits, target_is_real=real, for_discriminator=training)

    def _labelled(self, batch: Batch, domain: str) -> torch.Tensor:
        return _with_channels(batch[domain], self._code(batch, domain))

    def _code(self, batch: Batch, domain: str) -> torch.Tensor:
        return F.one_hot(batch[f"{domain}_site"], self.n_sites).float()


def _with_channels(images: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) and codes (B, sites) -> (B, C + sites, H, W), which image pools keep together."""
    height, width = images.shape[-2:]
    return torch.cat([images, code.to(images.dtype)[:, :, None, None].expand(-1, -1, height, width)], dim=1)


def _require_sites(batch: Batch) -> None:
    if "source_site" not in batch or "target_site" not in batch:
        raise ValueError("batches hold no sites: give the data set the option `sites`")
