"""What a round is made of: how predictions become pseudo-labels, and what it has so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmoda.selftraining.cleaning import CleaningRule
from crossmoda.selftraining.members import Network
from crossmoda.selftraining.selection import Plausible, SelectAll, SelectionRule
from crossmoda.selftraining.voxels import VoxelRule


@dataclass(frozen=True)
class Labelling:
    """How predictions become pseudo-labels.

    Args:
        selection: which cases are kept.
        cleaning: rules applied to label maps one after the other.
        voxels: rules that mark voxels to ignore.
        plausible: the share of cases that it keeps is one of a round's label-free numbers.
        score_cleaned: whether anatomy and contrast are judged after cleaning.
    """

    selection: SelectionRule = field(default_factory=SelectAll)
    cleaning: Sequence[CleaningRule] = ()
    voxels: Sequence[VoxelRule] = ()
    plausible: Plausible | None = None
    score_cleaned: bool = False


@dataclass
class Round:
    """What a round has so far.

    Args:
        number: 0 is the teacher before self-training.
        folder: of its results.
        checkpoints: of all its networks.
        keys: of the steps that made them.
        chosen: the networks of its ensemble.
    """

    number: int
    folder: Path
    checkpoints: dict[Network, Path] = field(default_factory=dict)
    keys: dict[Network, str] = field(default_factory=dict)
    chosen: list[Network] = field(default_factory=list)
    key: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)

    def folders(self, views: bool = False) -> list[Path]:
        """Folders of the chosen networks' probabilities, or of their further views."""
        parent = self.folder / "predictions"
        if not views:
            return [parent / network.name for network in self.chosen]
        return [parent / f"{n.name}_view{i}" for n in self.chosen for i in range(1, len(n.member.views) + 1)]
