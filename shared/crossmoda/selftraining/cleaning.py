"""Rules that mend a pseudo-label by the scan's contrast and by anatomy: interchangeable, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from monai.transforms import FillHoles as MonaiFillHoles
from scipy import ndimage
from skimage.filters import threshold_multiotsu, threshold_otsu

from crossmoda.labels import BACKGROUND
from crossmoda.postprocessing import apply_rules
from crossmoda.selftraining.evidence import CaseEvidence
from crossmoda.selftraining.regions import Box, box_around, distances_around

# Methods A.3: an internal auditory canal is 5.5-11 mm long (mean 9.8), and its end lies 1-3 mm from the cochlea.
CANAL_MM = 9.8 + 2.0

_FULL = np.ones((3, 3, 3), dtype=bool)  # corners touch, as in crossmoda.postprocessing


class CleaningRule(ABC):
    """Mends a label map."""

    @abstractmethod
    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mend one label map.

        Args:
            labels: label map, shape (X, Y, Z), uint8; stays as it is.
            evidence: the scan, its spacing and its classes.

        Returns:
            The mended label map, uint8.
        """


class Components(CleaningRule):
    """The rules of `crossmoda.postprocessing` by name: largest components, near the cochlea, one a side.

    Args:
        rules: names in `crossmoda.postprocessing.RULES`.
    """

    def __init__(self, rules: Sequence[str] = ("largest_vs", "largest_cochlea_per_side")) -> None:
        self.rules = tuple(rules)

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mend one label map, see `CleaningRule`.

        Raises:
            InputError: if a rule is not known.
        """
        return apply_rules(labels, evidence.affine, self.rules, evidence.classes)


class FillHoles(CleaningRule):
    """Fills background that one class encloses (MONAI's `FillHoles`), e.g. cysts of a tumour (ours)."""

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mend one label map, see `CleaningRule`."""
        classes = evidence.classes
        filled = labels.copy()
        if labels.any():
            box = box_around(labels > 0, (1, 1, 1))  # the whole volume takes many times as long
            fill = MonaiFillHoles(applied_labels=[*classes.tumour, classes.cochlea])
            filled[box] = np.asarray(fill(labels[box][None]))[0]
        return filled


class CochleaByContrast(CleaningRule):
    """Takes the bright voxels in and around each predicted cochlea as cochlea.

    Chen 2023 improves the pseudo-labels "of cochlea and intra-meatal VS based on the contrast of real hrT2 scans" and
    says no more; this is our reading. Around each component, Otsu's threshold divides fluid from bone; of the bright
    voxels near it the largest component stays. The tumour's voxels are left alone, and a component is too where its
    surroundings have no contrast.

    Args:
        dilation_mm: how far beyond the prediction the cochlea may reach; open: about two voxels of 0.5 mm.
        surroundings_mm: how far around it voxels count for the threshold; open: 3 mm, as wide as the bone around it.
            Within `dilation_mm` alone there is little bone, and Otsu's threshold divides the fluid.
    """

    def __init__(self, dilation_mm: float = 1.0, surroundings_mm: float = 3.0) -> None:
        self.dilation_mm = dilation_mm
        self.surroundings_mm = surroundings_mm

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mend one label map, see `CleaningRule`."""
        cochlea = evidence.classes.cochlea
        components, count = ndimage.label(labels == cochlea, structure=_FULL)
        mended = np.where(labels == cochlea, BACKGROUND, labels).astype(labels.dtype)
        for number in range(1, count + 1):
            box, bright = self._bright(components == number, labels, evidence)
            mended[box][bright] = cochlea
        return mended

    def _bright(self, component: np.ndarray, labels: np.ndarray, evidence: CaseEvidence) -> tuple[Box, np.ndarray]:
        reach = max(self.dilation_mm, self.surroundings_mm)
        box, distance = distances_around(component, evidence.spacing, reach)
        image = evidence.image[box]
        usable = np.isin(labels[box], (BACKGROUND, evidence.classes.cochlea)) & np.isfinite(image)
        values = image[usable & (distance <= self.surroundings_mm)]
        if not values.size or values.min() == values.max():
            return box, component[box]
        near = usable & (distance <= self.dilation_mm)
        return box, largest_component(near & (image > threshold_otsu(values)))


class IntraMeatalByContrast(CleaningRule):
    """Removes bright CSF from the tumour's part in the internal auditory canal.

    Chen 2023 says no more than for the cochlea; our reading. In the box of the part, widened, Otsu's two thresholds
    divide bone, tissue and fluid. The part's fluid voxels become background, and so does what is then left in pieces:
    the part's largest component stays, and those that hang on to the rest of the tumour. If more than `most` of the
    part would be fluid, it is bright itself (a cyst, or no CSF to find) and stays.

    Args:
        intra: class of the intra-meatal part; None takes, of a tumour that is one class, what lies within 11.8 mm of
            the nearest cochlea: a canal's length and its distance to the cochlea.
        margin_mm: how far the box is widened; open: about two voxels of 0.5 mm.
        most: greatest share of the part that may be removed.
    """

    def __init__(self, intra: int | None = None, margin_mm: float = 1.0, most: float = 0.5) -> None:
        self.intra = intra
        self.margin_mm = margin_mm
        self.most = most

    def __call__(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        """Mend one label map, see `CleaningRule`."""
        part = self._part(labels, evidence)
        if not part.any():
            return labels.copy()
        box = box_around(part, [int(np.ceil(self.margin_mm / edge)) for edge in evidence.spacing])
        values, inside = evidence.image[box], part[box]
        known = values[np.isfinite(values)]
        if np.unique(known).size < 3:
            return labels.copy()
        try:
            threshold = threshold_multiotsu(known, classes=3)[1]
        except ValueError:  # fewer than three bins of its histogram are filled, beside an outlier
            return labels.copy()
        fluid = inside & (values > threshold)
        if not fluid.any() or np.count_nonzero(fluid) > self.most * np.count_nonzero(inside):
            return labels.copy()
        mended = labels.copy()
        mended[box][fluid] = BACKGROUND
        _drop_islands(mended, part, np.isin(mended, evidence.classes.tumour))
        return mended

    def _part(self, labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
        if self.intra is not None:
            return labels == self.intra
        cochlea = labels == evidence.classes.cochlea
        part = np.zeros(labels.shape, dtype=bool)
        if cochlea.any():
            box, distance = distances_around(cochlea, evidence.spacing, CANAL_MM)
            part[box] = np.isin(labels[box], evidence.classes.tumour) & (distance <= CANAL_MM)
        return part


def _drop_islands(labels: np.ndarray, part: np.ndarray, tumour: np.ndarray) -> None:
    """Make background of the part's components but its largest one and those that hang on to the rest of the tumour."""
    components, _ = ndimage.label(tumour, structure=_FULL)
    largest = largest_component(tumour & part)
    kept = np.union1d(components[tumour & ~part], components[largest])
    labels[tumour & ~np.isin(components, kept)] = BACKGROUND


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected component of a mask (corners touch); an empty mask stays empty.

    Args:
        mask: boolean, shape (X, Y, Z).

    Returns:
        bool of the same shape.
    """
    components, count = ndimage.label(mask, structure=_FULL)
    if count == 0:
        return mask.copy()
    return components == np.bincount(components.ravel())[1:].argmax() + 1


def clean(rules: Sequence[CleaningRule], labels: np.ndarray, evidence: CaseEvidence) -> np.ndarray:
    """Apply cleaning rules one after the other.

    Args:
        rules: cleaning rules; none leaves the labels as they are.
        labels: label map, shape (X, Y, Z), uint8.
        evidence: what it was made from.

    Returns:
        The mended label map.
    """
    for rule in rules:
        labels = rule(labels, evidence)
    return labels
