"""What a round of self-training found, without labels of the target scans: its numbers and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import write_text
from crossmoda.postprocessing import Classes
from crossmoda.selftraining import teacher
from crossmoda.selftraining.judge import agreement, mean_of
from crossmoda.selftraining.round import Labelling, Round

FILE = "metrics.json"


def round_metrics(
    current: Round, before: Round | None, verdicts: Mapping[str, str], labelling: Labelling, classes: Classes
) -> dict[str, Any]:
    """A round's label-free numbers.

    Args:
        current: with its fused predictions, and the `source_dice` of its students.
        before: the round before; None in round 0.
        verdicts: case -> why its pseudo-label was left out ("" if it was kept); empty in round 0.
        labelling: its `plausible` rule counts.
        classes: of the networks.
    """
    scores = teacher.read_scores(current.folder / "fused")
    names = [network.name for network in current.chosen]
    metrics: dict[str, Any] = {"round": current.number, "networks": names, "cases": len(scores)}
    if verdicts:
        metrics |= kept_of(verdicts)
    if labelling.plausible is not None:
        reasons = labelling.plausible.judge(scores)
        metrics["plausible_share"] = sum(not reason for reason in reasons.values()) / len(reasons)
    if before is not None:
        found = agreement([score.case for score in scores], before.folder / "fused", current.folder / "fused", classes)
        metrics |= {"agreement": mean_of(found), "agreement_of_cases": found}
    return metrics | {"source_dice": current.metrics["source_dice"]}


def metrics_without_labels(number: int, verdicts: Mapping[str, str]) -> dict[str, Any]:
    """The numbers of a round that kept no case."""
    return {"round": number, "networks": [], "cases": len(verdicts)} | kept_of(verdicts)


def kept_of(verdicts: Mapping[str, str]) -> dict[str, Any]:
    """How many cases were kept, and which share."""
    kept = sum(not reason for reason in verdicts.values())
    return {"kept": kept, "kept_share": kept / len(verdicts)}


def write_metrics(current: Round, seconds: float | None = None) -> None:
    """Write a round's numbers; `seconds` those that it took, unless an earlier process has done the round's work."""
    path = current.folder / FILE
    if seconds is not None:
        before = json.loads(path.read_text(encoding="utf-8")).get("seconds") if path.is_file() else None
        current.metrics["seconds"] = round(seconds, 1) if before is None else before
    write_text(json.dumps(current.metrics, indent=1) + "\n", path)


def write_page(
    current: Round, before: Round | None, items: Sequence[Mapping[str, Any]], classes: Classes, table: np.ndarray
) -> Path:
    """Write the round's page with pictures.

    Args:
        current: with its numbers written.
        before: the round before; None in round 0, and if no case was kept.
        items: the target cases, {case, image}.
        classes: of the networks.
        table: class of the networks -> class of the files with pseudo-labels, of `teacher.file_classes`.

    Returns:
        The page.
    """
    from crossmoda.report.rounds import write_round_page  # the report draws, and loads slowly

    written = Classes(tuple(int(table[label]) for label in classes.tumour), int(table[classes.cochlea]))
    write_round_page(current.folder, items, before and before.folder / "fused", classes, written)
    return current.folder / "index.html"
