"""Small cases of which every number is known by hand."""

from __future__ import annotations

import numpy as np

from crossmoda.postprocessing import Classes
from crossmoda.selftraining import CaseEvidence

TWO = Classes((1,), 2)
THREE = Classes((1, 2), 3)


def one_hot(labels: np.ndarray, probability: float = 1.0, classes: int = 3) -> np.ndarray:
    """Probabilities whose greatest is `probability`, at the given labels; the others share the rest."""
    probabilities = np.full((classes, *labels.shape), (1 - probability) / (classes - 1), np.float32)
    np.put_along_axis(probabilities, labels[None].astype(int), probability, axis=0)
    return probabilities


def evidence(labels: np.ndarray, image: np.ndarray | None = None, **kwargs) -> CaseEvidence:
    """Evidence of a sure prediction on a grid of 1 mm, or of `affine`."""
    probabilities = kwargs.pop("probabilities", None)
    if probabilities is None:
        probabilities = one_hot(labels, classes=kwargs.get("classes", TWO).cochlea + 1)
    return CaseEvidence(
        case=kwargs.pop("case", "case"),
        probabilities=probabilities,
        image=np.zeros(labels.shape, np.float32) if image is None else image,
        affine=kwargs.pop("affine", np.eye(4)),
        **kwargs,
    )


def head(mirrored: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scan of a head of 40 x 24 x 12 voxels: tumour on the left, bright cochleae, fluid around the tumour.

    Args:
        mirrored: whether the labels, and not the scan, are mirrored at the volume's middle.
        seed: of the scan's noise.
    """
    labels = np.zeros((40, 24, 12), np.uint8)
    image = np.full(labels.shape, 20.0, np.float32)  # bone
    image[12:30] = 60  # brain
    image[13:29, 8:16, 3:9] = 150  # fluid
    labels[14:19, 10:14, 4:8] = 1
    # Unlike heights: a mirrored label must not fall on the other cochlea.
    labels[6:9, 10:13, 5:8] = 2
    labels[32:35, 14:17, 5:8] = 2
    image[labels == 1] = 70
    image[labels == 2] = 140
    image += np.random.default_rng(seed).normal(0, 3, labels.shape).astype(np.float32)
    return (labels[::-1].copy() if mirrored else labels), image
