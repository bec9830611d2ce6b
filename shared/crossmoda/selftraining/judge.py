"""Judging a round without labels of the target scans, and stopping when it gains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import read_label
from crossmoda.errors import InputError
from crossmoda.labels import CLASS_NAMES, FOREGROUND
from crossmoda.metrics import dice_per_class
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.evidence import merge_parts

CRITERIA = ("agreement", "plausible_share", "source_dice")


def agreement(cases: Sequence[str], first: Path, second: Path, classes: Classes) -> dict[str, dict[str, float]]:
    """How alike two rounds' label maps are.

    Args:
        cases: names.
        first: folder of `<case>_seg.nii.gz`.
        second: the other folder.
        classes: of the networks; parts of the tumour count together.

    Returns:
        Case to the Dice of VS and cochlea, and their `mean`; 1 where neither round has the class.
    """
    found = {}
    allowed = (0, *classes.tumour, classes.cochlea)
    for case in cases:
        maps = [read_label(folder / f"{case}_seg.nii.gz", allowed)[0] for folder in (first, second)]
        dice = dice_per_class(*[merge_parts(labels, classes) for labels in maps])
        found[case] = {CLASS_NAMES[label]: dice[label] for label in FOREGROUND}
        found[case]["mean"] = float(np.mean(list(dice.values())))
    return found


def mean_of(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the cases of what `agreement` gives."""
    names = list(next(iter(found.values())))
    return {name: float(np.mean([values[name] for values in found.values()])) for name in names}


@dataclass(frozen=True)
class EarlyStop:
    """Ends the rounds when a criterion that needs no target label stops improving (ours).

    Args:
        criterion: `agreement` (mean Dice with the round before), `plausible_share` (of the target cases) or
            `source_dice` (of the students on translated cases kept from training); None does all rounds, as the papers.
        min_gain: less than this is no improvement.
        patience: rounds without improvement before the end.
    """

    criterion: str | None = None
    min_gain: float = 0.0
    patience: int = 1

    def check(self) -> None:
        """Raise `InputError` if there is no such criterion (not when a config builds it: MONAI buries the message)."""
        if self.criterion is not None and self.criterion not in CRITERIA:
            raise InputError(
                f"early_stop has no criterion '{self.criterion}': take one of {', '.join(CRITERIA)}, or null"
            )

    def best(self, rounds: Sequence[Mapping[str, Any]]) -> int:
        """The round whose ensemble is the result: the best by the criterion, the last one without.

        Args:
            rounds: metrics of each round from 0 on.
        """
        if self.criterion is None:
            return len(rounds) - 1
        best, value = 0, None
        for number, metrics in enumerate(rounds):
            here = _value(metrics, self.criterion)
            if here is not None and (value is None or here > value + self.min_gain):
                best, value = number, here
        return best

    def is_due(self, rounds: Sequence[Mapping[str, Any]]) -> bool:
        """Whether to stop after these rounds."""
        return self.criterion is not None and len(rounds) - 1 - self.best(rounds) >= self.patience


def _value(metrics: Mapping[str, Any], criterion: str) -> float | None:
    value = metrics.get(criterion)
    return value.get("mean") if isinstance(value, Mapping) else value
