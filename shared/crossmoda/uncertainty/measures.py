"""How sure a segmentation is: predictive entropy, agreement of members, volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage

from crossmoda.labels import CLASS_NAMES, COCHLEA, PART_NAMES, VS
from crossmoda.postprocessing import side_of_middle

Groups = Mapping[str, tuple[int, ...]]


def class_groups(tumour_labels: Sequence[int], cochlea_label: int) -> dict[str, tuple[int, ...]]:
    """The structures that are reported, and the classes that make them up.

    Args:
        tumour_labels: classes that together are the tumour; two of them are its extra- and intra-meatal parts.
        cochlea_label: class of the cochlea.

    Returns:
        VS and cochlea, with extra and intra between them if the tumour has parts.
    """
    parts = {name: (label,) for label, name in PART_NAMES.items()} if len(tumour_labels) > 1 else {}
    return {CLASS_NAMES[VS]: tuple(tumour_labels), **parts, CLASS_NAMES[COCHLEA]: (cochlea_label,)}


def predictive_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean entropy of the class probabilities over the predicted foreground and its border.

    Args:
        probabilities: shape (C, X, Y, Z), sum 1.
        labels: label map, shape (X, Y, Z); foreground is what is not 0, the border one voxel around it (all 26
            neighbours).

    Returns:
        In [0, 1]: 0 where all is certain, 1 where all classes are equally probable (the entropy by log C); None if
        there is no foreground.
    """
    foreground = labels > 0
    if not foreground.any():
        return None
    box = tuple(
        slice(max(0, side.start - 1), side.stop + 1) for side in ndimage.find_objects(foreground.astype(np.uint8))[0]
    )
    region = ndimage.binary_dilation(foreground[box], np.ones((3, 3, 3)))
    p = probabilities[(slice(None), *box)][:, region].astype(np.float64)
    logarithm = np.log(p, out=np.zeros_like(p), where=p > 0)
    return float(-(p * logarithm).sum(axis=0).mean() / np.log(len(p)))


def pairwise_dice(members: Sequence[np.ndarray], groups: Groups) -> dict[str, float] | None:
    """Agreement of several label maps: Dice of each pair of them, averaged over the pairs.

    Args:
        members: label maps of one shape.
        groups: structures, see `class_groups`.

    Returns:
        Structure to mean Dice in [0, 1], 1 for a structure that a pair agrees not to mark; None for less than two maps.
    """
    if len(members) < 2:
        return None
    marked = np.zeros(np.shape(members[0]), bool)
    for member in members:
        marked |= np.asarray(member) > 0
    inner = [np.asarray(member)[marked] for member in members]
    agreement = {}
    for name, labels in groups.items():
        masks = [np.isin(member, labels) for member in inner]
        sizes = [int(mask.sum()) for mask in masks]
        scores = []
        for i, j in combinations(range(len(masks)), 2):
            total = sizes[i] + sizes[j]
            scores.append(2 * int((masks[i] & masks[j]).sum()) / total if total else 1.0)
        agreement[name] = float(np.mean(scores))
    return agreement


def volumes_ml(labels: np.ndarray, affine: np.ndarray, groups: Groups) -> dict[str, float]:
    """Volume of each structure in millilitres.

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm.
        groups: structures, see `class_groups`.
    """
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    counts = np.bincount(labels.astype(np.uint8).ravel(), minlength=256)
    return {name: float(counts[list(members)].sum()) * voxel for name, members in groups.items()}


def sides_without(labels: np.ndarray, affine: np.ndarray, label: int) -> list[str]:
    """Sides of the scan's middle plane (`left`, `right`) without a voxel of a class (open: the scan is centred).

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        label: the class.
    """
    right = side_of_middle(np.argwhere(labels == label), affine, labels.shape)
    return [name for name, found in (("left", not right.all()), ("right", right.any())) if not found or not right.size]
