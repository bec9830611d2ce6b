"""Which voxels of a pseudo-label the student's loss passes over: interchangeable rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from crossmoda.labels import BACKGROUND
from crossmoda.selftraining.evidence import CaseEvidence
from crossmoda.selftraining.regions import box_around


class VoxelRule(ABC):
    """Marks voxels of a pseudo-label as not to be learned from."""

    @abstractmethod
    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel.

        Args:
            labels: cleaned label map, shape (X, Y, Z), uint8.
            evidence: what it was made from.

        Returns:
            bool, shape (X, Y, Z): True where the label is to be ignored.
        """


class LowConfidence(VoxelRule):
    """Ignores voxels whose greatest probability is low (Chen 2023's p at voxel level; its value is open).

    Args:
        threshold: least probability that is kept; voxels that are not finite have 0.
    """

    def __init__(self, threshold: float = 0.6) -> None:
        self.threshold = threshold

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel, see `VoxelRule`."""
        return evidence.confidence < self.threshold


class TopVoxelShare(VoxelRule):
    """Keeps the surest share of each class's voxels and ignores the others (PAST 2022).

    Args:
        share: of each class's voxels that are kept, in (0, 1]; rounded up; voxels as sure as the last one stay.
            PAST 2022: 0.6 at start.
        background: whether the background too is cut to its share (open: PAST says every class; nearly all background
            is sure, and what a cut ignores is arbitrary among equals).

    Raises:
        ValueError: if the share is not in (0, 1].
    """

    def __init__(self, share: float = 0.6, background: bool = False) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        self.share = share
        self.background = background

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel, see `VoxelRule`."""
        ignored = np.zeros(labels.shape, dtype=bool)
        for label in range(BACKGROUND if self.background else BACKGROUND + 1, len(evidence.probabilities)):
            mask = labels == label
            confidence = evidence.confidence[mask]
            if confidence.size:
                kept = int(np.ceil(self.share * confidence.size - 1e-9))
                limit = np.partition(confidence, confidence.size - kept)[confidence.size - kept]
                ignored[mask] = confidence < limit
        return ignored


class Disagreement(VoxelRule):
    """Ignores voxels to which too few members or flips give the fused class.

    Args:
        least_share: of the views that must give it; 1 ignores wherever one differs. Without views nothing is ignored.
    """

    def __init__(self, least_share: float = 1.0) -> None:
        self.least_share = least_share

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel, see `VoxelRule`."""
        ignored = np.zeros(labels.shape, dtype=bool)
        if evidence.views:
            votes = np.zeros(labels.shape, dtype=np.uint16)
            for view in evidence.views:
                votes += view == evidence.labels
            ignored = votes < self.least_share * len(evidence.views) - 1e-9
        return ignored


class BorderBand(VoxelRule):
    """Ignores a band on both sides of the borders of classes, where pseudo-labels are least exact (ours).

    Args:
        width_mm: voxels of another class within this distance (centre to centre) put a voxel in the band.
    """

    def __init__(self, width_mm: float = 1.0) -> None:
        self.width_mm = width_mm

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel, see `VoxelRule`."""
        ignored = np.zeros(labels.shape, dtype=bool)
        spacing = evidence.spacing
        margin = [int(np.ceil(self.width_mm / edge)) + 1 for edge in spacing]
        # The background's side of a border is the foreground's neighbourhood, so that its own pass is not needed.
        for label in np.unique(labels[labels != BACKGROUND]):
            mask = labels == label
            box = box_around(mask, margin)
            inside = mask[box]
            for side in (inside, ~inside):
                if not side.all():
                    distance = ndimage.distance_transform_edt(side, sampling=spacing)
                    ignored[box] |= side & (distance <= self.width_mm)
        return ignored


class ChangedByCleaning(VoxelRule):
    """Ignores voxels that cleaning rules changed: the teacher says one thing, the rule another (ours)."""

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Judge every voxel, see `VoxelRule`."""
        return labels != evidence.labels


def ignored_voxels(rules: Sequence[VoxelRule], labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
    """Voxels that one rule or more ignores; none without rules.

    Args:
        rules: voxel rules.
        labels: cleaned label map, shape (X, Y, Z).
        evidence: what it was made from.

    Returns:
        bool, shape (X, Y, Z).
    """
    ignored = np.zeros(labels.shape, dtype=bool)
    for rule in rules:
        ignored |= rule(labels, evidence)
    return ignored
