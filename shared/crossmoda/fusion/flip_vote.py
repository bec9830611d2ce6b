"""Chen 2023's vote over flipped predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from crossmoda.labels import COCHLEA, VS

_FULL = np.ones((3, 3, 3), dtype=bool)  # corners touch, as in their code


@dataclass(frozen=True)
class FlipVote:
    """Fuses the label maps of one network's flipped passes (Chen 2023, code: cascade.py).

    Where the passes disagree over the whole ("bad case"), every class that a pass marks counts, the cochlea near the
    slices of the intra-meatal part alone. Else a part of the tumour needs more than 0.7 of the votes (6 of 8), the
    cochlea more than half; voxels with enough votes for the tumour but for neither part go to the smaller part; and the
    largest component of the tumour stays, one with both parts if there is one.

    With one tumour class (open; the paper has both parts) it plays the part of both, as far as that makes sense.

    Attributes:
        tumour_labels: extra- and intra-meatal part, or the whole tumour alone.
        cochlea_label: class of the cochlea.
        bad_case: disagreement above which a case is bad; of |union - intersection| / (|union| + |intersection| + 1).
        tumour_share: share of votes that the tumour must exceed.
        cochlea_share: share of votes that the cochlea must exceed.
        cochlea_reach: slices (of the last axis) around the mean slice of the intra-meatal part.
        smallest_cochlea: voxels; where no voxel has enough votes, components above this size of what any pass marks.
    """

    tumour_labels: Sequence[int] = (VS,)
    cochlea_label: int = COCHLEA
    bad_case: float = 0.7
    tumour_share: float = 0.7
    cochlea_share: float = 0.5
    cochlea_reach: int = 30
    smallest_cochlea: int = 50

    def __call__(self, passes: Sequence[np.ndarray]) -> np.ndarray:
        """Vote.

        Args:
            passes: label maps of one shape (X, Y, Z), z the slice axis.

        Returns:
            uint8 label map.
        """
        stack = np.stack([np.asarray(labels, np.uint8) for labels in passes])
        if self._disagreement(stack) > self.bad_case:
            return self._all_marked(stack)
        fused = self._tumour_by_votes(stack)
        fused[self._cochlea_by_votes(stack)] = self.cochlea_label
        return self._largest_tumour(fused)

    def _disagreement(self, stack: np.ndarray) -> float:
        """As the code's `compute_dist`: 0 if all passes mark the same voxels, near 1 if none is marked by all."""
        marked = stack > 0
        common, any_marked = int(marked.all(axis=0).sum()), int(marked.any(axis=0).sum())
        return (any_marked - common) / (any_marked + common + 1)

    def _all_marked(self, stack: np.ndarray) -> np.ndarray:
        fused = np.zeros(stack.shape[1:], np.uint8)
        for label in self.tumour_labels:
            fused[(stack == label).any(axis=0)] = label
        cochlea = (stack == self.cochlea_label).any(axis=0)
        slices = np.flatnonzero((stack == self.tumour_labels[-1]).any(axis=(0, 1, 2)))
        if slices.size:
            cochlea &= np.abs(np.arange(stack.shape[3]) - slices.mean()) <= self.cochlea_reach
        fused[cochlea] = self.cochlea_label
        return fused

    def _tumour_by_votes(self, stack: np.ndarray) -> np.ndarray:
        fused = np.zeros(stack.shape[1:], np.uint8)
        whole = np.isin(stack, self.tumour_labels).mean(axis=0) > self.tumour_share
        first, last = self.tumour_labels[0], self.tumour_labels[-1]
        if first == last:
            fused[whole] = first
            return fused
        fused[(stack == first).mean(axis=0) > self.tumour_share] = first
        fused[_largest((stack == last).mean(axis=0) > self.tumour_share)] = last
        first_is_larger = (stack == first).all(axis=0).sum() > (stack == last).any(axis=0).sum()
        fused[whole & (fused == 0)] = last if first_is_larger else first
        return fused

    def _cochlea_by_votes(self, stack: np.ndarray) -> np.ndarray:
        votes = stack == self.cochlea_label
        cochlea = votes.mean(axis=0) > self.cochlea_share
        if cochlea.any():
            return cochlea
        components, count = ndimage.label(votes.any(axis=0), _FULL)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        large = np.flatnonzero(sizes > self.smallest_cochlea)
        return np.isin(components, large[large > 0])

    def _largest_tumour(self, fused: np.ndarray) -> np.ndarray:
        tumour = np.isin(fused, self.tumour_labels)
        components, count = ndimage.label(tumour, _FULL)
        if count < 2:
            return fused
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        sizes[0] = 0
        parts = [np.isin(np.arange(count + 1), components[fused == label]) for label in self.tumour_labels]
        complete = np.logical_and.reduce(parts) & (sizes > 0)
        kept = np.where(complete, sizes, 0).argmax() if complete.any() else sizes.argmax()
        return np.where(tumour & (components != kept), 0, fused).astype(np.uint8)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask."""
    components, count = ndimage.label(mask, _FULL)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    return components == sizes[1:].argmax() + 1
