"""From a teacher's prediction to what a student learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossmoda.labels import IGNORE
from crossmoda.selftraining.cleaning import CleaningRule, clean
from crossmoda.selftraining.evidence import CaseEvidence
from crossmoda.selftraining.voxels import VoxelRule, ignored_voxels


def make_pseudo_label(
    evidence: CaseEvidence, cleaning: Sequence[CleaningRule] = (), voxels: Sequence[VoxelRule] = ()
) -> np.ndarray:
    """Clean the most probable classes, then mark the voxels to ignore.

    Args:
        evidence: the teacher's prediction.
        cleaning: rules applied one after the other.
        voxels: rules of which each marks voxels to ignore.

    Returns:
        uint8, shape (X, Y, Z): classes, and `IGNORE` (255).
    """
    labels = clean(cleaning, evidence.labels, evidence)
    return np.where(ignored_voxels(voxels, labels, evidence), IGNORE, labels).astype(np.uint8)
