"""Which of a round's networks make up its ensemble, decided on labelled (translated) cases they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import label_map, read_label, read_probabilities
from crossmoda.engines import read_history
from crossmoda.errors import InputError
from crossmoda.metrics import dice_per_class
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.evidence import merge_parts, to_labels

VALIDATION_DICE = "val_mean_dice"


@dataclass(frozen=True)
class All:
    """All networks."""

    needs_held_out = False


@dataclass(frozen=True)
class BestFolds:
    """Of each member the folds of the best source-validation Dice (Shin 2021, 2.3).

    Args:
        counts: member -> number of folds; members that are absent keep all.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    needs_held_out = False

    def choose(self, members: Mapping[str, Sequence[str]], dice: Mapping[str, float]) -> list[str]:
        """Choose.

        Args:
            members: member -> its networks.
            dice: of each network on its own validation cases.

        Returns:
            Names of the networks, in their order.
        """
        chosen: set[str] = set()
        for member, networks in members.items():
            ranked = sorted(networks, key=lambda name: -dice[name])
            chosen.update(ranked[: self.counts.get(member, len(ranked))])
        return [name for networks in members.values() for name in networks if name in chosen]


@dataclass(frozen=True)
class BestSingleOrPair:
    """The member, or the pair of members, of the best cross-validation Dice (nnU-Net; Kang 2022, 4.2).

    A pair's prediction is the most probable class by the mean of the two probabilities, as nnU-Net has it. Of equals
    the first counts, single members before pairs.
    """

    needs_held_out = True

    def choose(self, dice: Mapping[tuple[str, ...], float]) -> tuple[str, ...]:
        """The best of the candidates, see `candidates_dice`."""
        best = max(dice.values())
        return next(names for names in sorted(dice, key=len) if dice[names] == best)


def best_validation_dice(folder: Path) -> float:
    """The validation Dice of the checkpoint that a training kept.

    Args:
        folder: of the training, with `history.csv`.

    Raises:
        InputError: if no validation is in its history.
    """
    values = [row[VALIDATION_DICE] for row in read_history(folder / "history.csv") if VALIDATION_DICE in row]
    if not values:
        raise InputError(f"{folder / 'history.csv'} has no {VALIDATION_DICE}: let the training validate (val_interval)")
    return max(values)


def candidates_dice(
    items: Sequence[Mapping[str, Any]], members: Sequence[str], data_list: Path, classes: Classes
) -> dict[tuple[str, ...], float]:
    """Mean Dice of each member and of each pair, over held-out cases and classes.

    Args:
        items: each {label, predictions: {member: probability file}}.
        members: their names.
        data_list: whose `label_map` holds for the labels.
        classes: of the networks; parts of the tumour count together.

    Returns:
        (member,) or (member, member) to its Dice.
    """
    candidates = [names for size in (1, 2) for names in combinations(members, size)]
    found: dict[tuple[str, ...], list[float]] = {names: [] for names in candidates}
    mapping = label_map(data_list)
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    for item in items:
        truth = table[read_label(item["label"], tuple(mapping))[0]]
        probabilities = {name: read_probabilities(path)[0] for name, path in item["predictions"].items()}
        for names in candidates:
            labels = to_labels(sum(probabilities[name] for name in names))
            dice = dice_per_class(merge_parts(labels, classes), truth)
            found[names].append(float(np.mean(list(dice.values()))))
    return {names: float(np.mean(values)) for names, values in found.items()}
