"""The numbers by which selection rules judge a case, computed once, small enough to keep for all cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from crossmoda.labels import BACKGROUND, CLASS_NAMES, FOREGROUND
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.evidence import CaseEvidence
from crossmoda.selftraining.measures import Numbers, measure_anatomy, measure_contrast
from crossmoda.uncertainty import class_groups, pairwise_dice, predictive_entropy

# open: voxels of at least this foreground probability count in the entropy, so that a tumour nearly found counts too.
POSSIBLE_FOREGROUND = 0.1


@dataclass(frozen=True)
class CaseScores:
    """One case's numbers, ready for JSON and CSV.

    Args:
        case: its name.
        site: where it was acquired; "" if unknown.
        values: name to number; None if it can't be measured, e.g. because the class is not predicted.
    """

    case: str
    site: str = ""
    values: Numbers = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The scores as plain values; `CaseScores(**scores.to_json())` gives them back."""
        return asdict(self)


def score_case(evidence: CaseEvidence, labels: np.ndarray | None = None) -> CaseScores:
    """All numbers of one case.

    Args:
        evidence: probabilities, views and scan.
        labels: label map whose anatomy and contrast are measured, e.g. a cleaned one; None takes the most probable
            classes.

    Returns:
        `confidence_foreground`, `confidence_<class>`: mean of the greatest probability over the voxels predicted as
        such (Chen 2023: maximum probability); of VS in parts, their probabilities count together.
        `entropy`: mean predictive entropy in [0, 1] (1 = all classes alike) where foreground is possible, and one voxel
        around it; the reports of `crossmoda.uncertainty` take the predicted foreground instead.
        `agreement_VS`, `agreement_cochlea`: mean Dice of all pairs of views.
        And those of `measure_anatomy` and `measure_contrast`.
    """
    labels = evidence.labels if labels is None else labels
    values: Numbers = {}
    values |= _confidence(evidence)
    values["entropy"] = _entropy(evidence)
    values |= _agreement(evidence)
    values |= measure_anatomy(labels, evidence.affine, evidence.classes)
    values |= measure_contrast(evidence.image, labels, evidence.spacing, evidence.classes)
    return CaseScores(evidence.case, evidence.site, values)


def _confidence(evidence: CaseEvidence) -> Numbers:
    values: Numbers = {"confidence_foreground": _mean(evidence.confidence[evidence.labels != BACKGROUND])}
    for name, numbers in _groups(evidence.classes).items():
        predicted = np.isin(evidence.labels, numbers)
        values[f"confidence_{name}"] = _mean(evidence.probabilities[list(numbers)][:, predicted].sum(axis=0))
    return values


def _entropy(evidence: CaseEvidence) -> float | None:
    probabilities = evidence.probabilities
    broken = evidence.confidence == 0
    if broken.any():
        probabilities = np.where(broken, 1 / len(probabilities), probabilities)
    return predictive_entropy(probabilities, probabilities[BACKGROUND] <= 1 - POSSIBLE_FOREGROUND)


def _agreement(evidence: CaseEvidence) -> Numbers:
    groups = {CLASS_NAMES[label]: _groups(evidence.classes)[CLASS_NAMES[label]] for label in FOREGROUND}
    dice = pairwise_dice(evidence.views, groups) or dict.fromkeys(groups)
    marked = {name: any(np.isin(view, numbers).any() for view in evidence.views) for name, numbers in groups.items()}
    return {f"agreement_{name}": value if marked[name] else None for name, value in dice.items()}


def _groups(classes: Classes) -> dict[str, tuple[int, ...]]:
    return class_groups(classes.tumour, classes.cochlea)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None
