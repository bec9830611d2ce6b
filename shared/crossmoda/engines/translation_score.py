"""Judges translations without any target label, to choose the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils import CommonKeys as Keys
from torch.nn import functional as F

from crossmoda.engines.translation import SEGMENTATION, TARGET
from crossmoda.labels import CLASS_NAMES, COCHLEA, FOREGROUND, VS
from crossmoda.metrics.distributions import (
    histogram,
    log_power_spectrum,
    probability_brighter,
    total_variation,
    wasserstein,
)


class TranslationScore(Metric):
    """Mean of up to six parts, each in [0, 1]; it stands for the papers' choice of the epoch "by eye".

    - `score_intensity`: share of the distance between the intensity histograms (Wasserstein-1) of source and target
      slices that the translation closes: 1 - d(translated, target) / d(source, target), at least 0.
    - `score_spectrum`: the same share for the mean log power spectrum over spatial frequencies (sharpness, noise).
    - `score_visible_VS`, `score_visible_cochlea`: total variation distance between the histograms inside the
      source's label and in a ring around it: 0 when the structure has vanished, 1 when its grey values occur
      nowhere near it.
    - `score_order`: probability that a translated cochlea voxel is brighter than a translated VS voxel. On hrT2 the
      fluid of the cochlea is brighter than the tumour in every protocol (methods' signal equations), on ceT1 it is
      the other way round; the two known failures, tumours that stay bright and cochleae wiped out, both lower it.
    - `score_segmenter`: mean Dice over VS and cochlea of the objective's own target segmenter on the translation,
      against the source's label; only for objectives that have one.

    Parts without voxels (no cochlea in the validation slices) are left out of the mean. The parts go into
    `engine.state.metrics` beside the score. All are sums over voxels, so the batch size does not matter. Each
    process of a distributed run judges all validation slices itself.

    Args:
        ring: width in pixels of the ring around a structure.
        output_transform: as in ignite; the output is `TranslationEvaluator`'s.
    """

    required_output_keys = (Keys.IMAGE, Keys.LABEL, Keys.PRED, TARGET, SEGMENTATION)

    def __init__(self, ring: int = 4, output_transform: Any = lambda output: output) -> None:
        self.ring = ring
        self.parts: dict[str, float] = {}
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forget all slices."""
        self._histograms: dict[str, torch.Tensor] = {}
        self._spectra: dict[str, torch.Tensor] = {}
        self._overlap = torch.zeros(len(FOREGROUND), 2)

    @torch.no_grad()
    def update(self, output: Sequence[torch.Tensor | None]) -> None:
        """Count the voxels of one batch: source, its label, translation, target, segmentation (or None), on any device.

        Each is (B, 1, H, W); images in [-1, 1].
        """
        source, label, translated, target, segmentation = (x if x is None else x.detach().float().cpu() for x in output)
        for name, image in {"source": source, "translated": translated, "target": target}.items():
            self._add(self._histograms, name, histogram(image))
            self._add(self._spectra, name, log_power_spectrum(image).sum(0))
            self._add(self._spectra, f"{name}_count", torch.tensor(float(image.shape[0])))
        for i, structure in enumerate(FOREGROUND):
            inside = label == structure
            grown = F.max_pool2d(inside.float(), 2 * self.ring + 1, stride=1, padding=self.ring) > 0
            self._add(self._histograms, f"inside_{structure}", histogram(translated[inside]))
            self._add(self._histograms, f"ring_{structure}", histogram(translated[grown & (label == 0)]))
            if segmentation is not None:
                found = segmentation == structure
                self._overlap[i] += torch.tensor([2.0 * (found & inside).sum(), float(found.sum() + inside.sum())])

    def compute(self) -> float:
        """The mean of the parts, which are kept in `parts`."""
        h = self._histograms
        spectra = {
            name: self._spectra[name] / self._spectra[f"{name}_count"] for name in ("source", "translated", "target")
        }
        parts = {
            "score_intensity": _closed(
                wasserstein(h["translated"], h["target"]), wasserstein(h["source"], h["target"])
            ),
            "score_spectrum": _closed(
                float((spectra["translated"] - spectra["target"]).abs().mean()),
                float((spectra["source"] - spectra["target"]).abs().mean()),
            ),
        }
        for structure in FOREGROUND:
            inside, ring = h[f"inside_{structure}"], h[f"ring_{structure}"]
            if inside.sum() and ring.sum():
                parts[f"score_visible_{CLASS_NAMES[structure]}"] = total_variation(inside, ring)
        if h[f"inside_{COCHLEA}"].sum() and h[f"inside_{VS}"].sum():
            parts["score_order"] = probability_brighter(h[f"inside_{COCHLEA}"], h[f"inside_{VS}"])
        present = self._overlap[:, 1] > 0
        if present.any():
            parts["score_segmenter"] = float((self._overlap[present, 0] / self._overlap[present, 1]).mean())
        self.parts = parts
        return sum(parts.values()) / len(parts)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the score and its parts into the engine's metrics."""
        super().completed(engine, name)
        engine.state.metrics.update(self.parts)

    @staticmethod
    def _add(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value


def _closed(distance: float, initial: float) -> float:
    """Share of an initial distance that was closed, in [0, 1]."""
    return max(0.0, 1.0 - distance / initial) if initial > 0 else 1.0
