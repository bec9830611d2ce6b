"""Labels spoilt on purpose, for trials of how selection takes a bad teacher; no method of a paper."""

from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np

from crossmoda.selftraining.cleaning import CleaningRule
from crossmoda.selftraining.evidence import CaseEvidence


class MirrorSome(CleaningRule):
    """Mirrors the label maps of some cases left to right, as a tool that mixes up orientations would.

    As first of the `cleaning_rules`, with `score_cleaned`, selection judges the mirrored maps.

    Args:
        share: of the cases, 0 to 1, in the mean.
        seed: chooses them, by their names.
    """

    def __init__(self, share: float = 0.2, seed: int = 0) -> None:
        self.share, self.seed = share, seed

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mirror one label map about the middle of its grid, or leave it, see `CleaningRule`."""
        digest = hashlib.sha256(f"{self.seed} {evidence.case}".encode()).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 >= self.share:
            return labels
        left_to_right = next(axis for axis, code in enumerate(nib.aff2axcodes(evidence.affine)) if code in "LR")
        return np.flip(labels, left_to_right).copy()
