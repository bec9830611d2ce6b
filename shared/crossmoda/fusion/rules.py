"""Rules that make one label map of several members' results for one scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import ndimage

from crossmoda.errors import InputError
from crossmoda.labels import NUM_CLASSES

STAPLE_MARGIN = 5  # voxels around what any member marks; open


class CaseMembers(Protocol):
    """What the members say of one scan; volumes are handed out one at a time, because many at once fill the memory."""

    num_classes: int

    def labels(self) -> Iterator[np.ndarray]:
        """Each member's label map: uint8, shape (X, Y, Z)."""

    def probabilities(self) -> Iterator[np.ndarray]:
        """Each member's class probabilities: float32, shape (C, X, Y, Z), sum 1."""

    @property
    def has_probabilities(self) -> bool:
        """Whether all members have probabilities."""


@dataclass(frozen=True)
class Fused:
    """A fused scan.

    Attributes:
        labels: uint8, shape (X, Y, Z).
        probabilities: mean class probabilities (C, X, Y, Z), for rules that use them; else None.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class ArrayMembers:
    """`CaseMembers` that lie in memory; probabilities alone are enough, labels are then their most probable class."""

    label_maps: Sequence[np.ndarray] = ()
    probability_maps: Sequence[np.ndarray] = ()
    num_classes: int = NUM_CLASSES

    def labels(self) -> Iterator[np.ndarray]:
        """Each member's label map."""
        if self.label_maps:
            yield from self.label_maps
        else:
            yield from (volume.argmax(axis=0).astype(np.uint8) for volume in self.probability_maps)

    def probabilities(self) -> Iterator[np.ndarray]:
        """Each member's class probabilities."""
        yield from self.probability_maps

    @property
    def has_probabilities(self) -> bool:
        """Whether there are probabilities."""
        return len(self.probability_maps) > 0


def mean(members: CaseMembers) -> Fused:
    """The most probable class by the members' mean probability (Shin 2021, Kang 2022, Han 2022; nnU-Net)."""
    average = mean_probability(members)
    return Fused(average.argmax(axis=0).astype(np.uint8), average)


def majority(members: CaseMembers) -> Fused:
    """The class that most members mark; of equal numbers the lower class, so background first (open)."""
    return Fused(_votes(members).argmax(axis=0).astype(np.uint8))


def union(members: CaseMembers) -> Fused:
    """A class wherever a member marks it (Li 2021, 3.7).

    Where members mark different classes, the one of higher mean probability counts (open: the paper does not say); by
    votes, and of equal votes the lower class, if there are no probabilities.
    """
    votes = _votes(members)
    marked = votes[1:] > 0
    scores = mean_probability(members) if members.has_probabilities and (marked.sum(axis=0) > 1).any() else votes
    best = np.where(marked, scores[1:].astype(np.float32), -1).argmax(axis=0) + 1
    return Fused(np.where(marked.any(axis=0), best, 0).astype(np.uint8))


def staple(members: CaseMembers) -> Fused:
    """STAPLE (Warfield 2004) of each class against the rest, by ITK's `STAPLEImageFilter`.

    It weighs members by the sensitivity and specificity that it estimates for them. A voxel takes the class of highest
    probability if that exceeds one half, and background otherwise. Only the box around what any member marks is looked
    at, with a margin (open): specificities come out as 1 where nearly all is background.
    """
    stack = np.stack(list(members.labels()))
    fused = np.zeros(stack.shape[1:], np.uint8)
    found = ndimage.find_objects((stack > 0).any(axis=0).astype(np.uint8))
    if not found:
        return Fused(fused)
    box = tuple(slice(max(0, side.start - STAPLE_MARGIN), side.stop + STAPLE_MARGIN) for side in found[0])
    inner = stack[(slice(None), *box)]
    best = np.full(inner.shape[1:], 0.5, np.float32)
    for label in range(1, members.num_classes):
        probability = staple_probability(inner == label)
        better = probability > best
        fused[box][better] = label
        best[better] = probability[better]
    return Fused(fused)


def staple_probability(masks: np.ndarray) -> np.ndarray:
    """STAPLE's probability of the structure.

    Args:
        masks: members' masks, bool, shape (members, X, Y, Z).

    Returns:
        float32, shape (X, Y, Z). Where all members agree on all voxels it is their mask.
    """
    import itk  # here, because it loads slowly and only this rule needs it

    if (masks == masks[0]).all():
        return masks[0].astype(np.float32)
    image = itk.Image[itk.F, 3]
    staple_filter = itk.STAPLEImageFilter[image, image].New()
    staple_filter.SetForegroundValue(1)
    for index, mask in enumerate(masks):
        staple_filter.SetInput(index, itk.image_from_array(mask.astype(np.float32, order="C")))
    staple_filter.Update()
    return itk.array_from_image(staple_filter.GetOutput())


@dataclass(frozen=True)
class Rule:
    """A fusion rule by name: what it needs, and the function."""

    reads: Literal["probabilities", "labels"]
    fuse: Callable[[CaseMembers], Fused]


RULES: dict[str, Rule] = {
    "mean": Rule("probabilities", mean),
    "majority": Rule("labels", majority),
    "union": Rule("labels", union),
    "staple": Rule("labels", staple),
}


def get_rule(name: str) -> Rule:
    """The rule called `name`.

    Raises:
        InputError: if there is none.
    """
    if name not in RULES:
        raise InputError(f"there is no fusion rule '{name}': take one of {', '.join(RULES)}")
    return RULES[name]


def mean_probability(members: CaseMembers) -> np.ndarray:
    """Mean over the members of their class probabilities: float32, shape (C, X, Y, Z)."""
    total, count = None, 0
    for probabilities in members.probabilities():
        total = probabilities.copy() if total is None else np.add(total, probabilities, out=total)
        count += 1
    return total / np.float32(count)


def _votes(members: CaseMembers) -> np.ndarray:
    """How many members mark each class: uint8, shape (C, X, Y, Z)."""
    votes = None
    for labels in members.labels():
        if votes is None:
            votes = np.zeros((members.num_classes, *labels.shape), np.uint8)
        for label in range(members.num_classes):
            votes[label] += labels == label
    return votes
