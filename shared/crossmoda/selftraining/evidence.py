"""What is known of one target case before its pseudo-label is judged: probabilities, members or flips, the scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import nibabel as nib
import numpy as np

from crossmoda.labels import BACKGROUND, COCHLEA, VS
from crossmoda.postprocessing import Classes


def to_labels(probabilities: np.ndarray) -> np.ndarray:
    """The most probable class of each voxel; background where a probability is NaN or infinite.

    Args:
        probabilities: shape (C, X, Y, Z).

    Returns:
        uint8, shape (X, Y, Z).
    """
    return np.where(_finite(probabilities), probabilities.argmax(axis=0), BACKGROUND).astype(np.uint8)


def merge_parts(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """A label map with the tumour's parts as one class.

    Args:
        labels: label map, any shape, uint8.
        classes: which numbers are tumour and cochlea.

    Returns:
        uint8 of the same shape, with the classes of `crossmoda.labels`.
    """
    table = np.zeros(256, np.uint8)
    table[list(classes.tumour)] = VS
    table[classes.cochlea] = COCHLEA
    return table[labels]


@dataclass(frozen=True)
class CaseEvidence:
    """One target case as the teacher sees it.

    Args:
        case: its name.
        probabilities: fused class probabilities, shape (C, X, Y, Z), each voxel's sum 1. Voxels that are not finite
            count as background of probability 0.
        image: the scan on the same grid, shape (X, Y, Z), any scale.
        affine: 4 x 4, voxel indices to mm (RAS).
        views: label maps of the same scan by several members or flips, each uint8 of shape (X, Y, Z); may be none.
        site: where it was acquired; "" if unknown.
        classes: which classes are tumour and which is cochlea.

    Raises:
        ValueError: if the shapes differ.
    """

    case: str
    probabilities: np.ndarray
    image: np.ndarray
    affine: np.ndarray
    views: tuple[np.ndarray, ...] = ()
    site: str = ""
    classes: Classes = field(default_factory=Classes)

    def __post_init__(self) -> None:
        for name, array in (("image", self.image), *(("view", view) for view in self.views)):
            if array.shape != self.probabilities.shape[1:]:
                raise ValueError(
                    f"{self.case}: {name} of shape {array.shape}, probabilities of {self.probabilities.shape}"
                )

    @cached_property
    def labels(self) -> np.ndarray:
        """The most probable class of each voxel, uint8, shape (X, Y, Z)."""
        return to_labels(self.probabilities)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The greatest probability of each voxel, shape (X, Y, Z); 0 where one is not finite."""
        return np.where(_finite(self.probabilities), self.probabilities.max(axis=0), 0)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges in mm."""
        x, y, z = (float(edge) for edge in nib.affines.voxel_sizes(self.affine))
        return x, y, z


def _finite(probabilities: np.ndarray) -> np.ndarray:
    # A sum is finite only if every class is; one pass without an array of C booleans a voxel.
    return np.isfinite(probabilities.sum(axis=0))
