"""Rounds judged against the truth that self-training never saw."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import (
    check_same_grid,
    label_map,
    load_datalist,
    read_label,
    read_sections,
    write_datalist,
    write_text,
)
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES, FOREGROUND, IGNORE
from crossmoda.metrics import dice_per_class, evaluate, gap_closed, read_metrics
from crossmoda.report.tables import NONE, Table
from crossmoda.selftraining.ensemble import FILE, predict_ensemble
from crossmoda.selftraining.teacher import TARGET

logger = logging.getLogger(__name__)

HEADER = [
    "round",
    "Dice VS",
    "Dice cochlea",
    "Dice",
    "ASSD VS",
    "ASSD cochlea",
    "gap closed",
    "kept",
    "pseudo-label Dice",
]


def evaluate_rounds(
    rounds_dir: str | Path,
    data_list: str | Path,
    output_dir: str | Path,
    section: str = "target_validation",
    bounds: tuple[str | Path, str | Path] | None = None,
    postprocessing_rules: Sequence[str] | str = (),
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Each round's ensemble on a labelled section, and each round's pseudo-labels against the truth.

    Args:
        rounds_dir: the output folder of self-training.
        data_list: with the truth; its `target_training` is needed for the pseudo-labels.
        output_dir: holds `round_<r>/metrics.csv` and `summary.json`, `rounds.json` and the table `rounds.md`.
        section: the section to segment.
        bounds: `metrics.csv` of the source-only and of the oracle system, for the share of the gap that is closed.
        postprocessing_rules: of `crossmoda.postprocessing`.
        options: overrides of the segmentation bundles' inference.
        progress: whether to show bars.

    Returns:
        What is in `rounds.json`.

    Raises:
        InputError: if the rounds, the truth or the bounds are missing or faulty.
    """
    rounds_dir, output_dir = Path(rounds_dir).absolute(), Path(output_dir)
    found = (path.parent for path in rounds_dir.glob(f"round_*/{FILE}"))
    folders = sorted(found, key=lambda folder: int(folder.name.split("_")[1]))
    if not folders:
        raise InputError(f"{rounds_dir} has no finished round: run train.yaml of self-training first")
    final = rounds_dir / "metrics.json"
    if final.is_file():  # a longer run with other settings may have left rounds behind
        last = len(json.loads(final.read_text(encoding="utf-8"))["rounds"])
        folders = folders[:last]
    limits = [_mean_dice(read_metrics(path)) for path in bounds] if bounds else None
    results = []
    for folder in folders:
        result = _evaluate_round(folder, data_list, section, output_dir, postprocessing_rules, options or {}, progress)
        if limits:
            result["gap_closed"] = gap_closed(result["dice"]["mean"], *limits)
        results.append(result)
    content = {"section": section, "rounds": results}
    write_text(json.dumps(content, indent=1) + "\n", output_dir / "rounds.json")
    table = rounds_table(results)
    write_text(table.markdown() + "\n", output_dir / "rounds.md")
    logger.info("\n" + table.text())
    return content


def _evaluate_round(
    folder: Path,
    data_list: str | Path,
    section: str,
    output_dir: Path,
    rules: Sequence[str] | str,
    options: Mapping[str, Any],
    progress: bool,
) -> dict[str, Any]:
    own = output_dir / folder.name
    ensemble = json.loads((folder / FILE).read_text(encoding="utf-8"))
    parts = ensemble["classes"]["cochlea"] == 3
    # The networks get a list without labels, so that the truth is opened by the comparison alone.
    items = load_datalist(data_list, section, require_label=True, check="header", progress=False)
    own.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own) as hidden:
        scans = Path(hidden) / "scans.json"
        write_datalist({section: [{key: item[key] for key in ("case", "site", "image")} for item in items]}, scans)
        predict_ensemble(folder / FILE, own, None, scans, section, rules, options=options, progress=progress)
    part_map = {label: label for label in range(4)} if parts else None
    summary = evaluate(own, data_list, section, progress=progress, part_map=part_map)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    dice, assd = summary["all"]["dice"], summary["all"]["assd"]
    result = {
        "round": metrics["round"],
        "dice": {name: values["mean"] for name, values in dice.items()},
        "assd": {name: values["mean"] for name, values in assd.items()},
        "kept_share": metrics.get("kept_share"),
    }
    if metrics["round"]:
        result["pseudo_labels"] = judge_pseudo_labels(folder, data_list)
    return result


def judge_pseudo_labels(folder: Path, data_list: str | Path) -> dict[str, Any] | None:
    """Dice of a round's pseudo-labels, over the voxels that are not ignored.

    Args:
        folder: of the round.
        data_list: whose `target_training` has the truth; with the same `label_map` as the translated scans.

    Returns:
        {"kept" and "rejected": {"cases", "dice": {class: mean}}, "ignored_share" of all voxels that either map calls
        foreground}; None if the list has no truth for these cases.
    """
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        rejected = {row["case"] for row in csv.DictReader(file) if row["kept"] == "no"}
    if not any(item.get("label") for item in read_sections(data_list).get(TARGET, [])):
        return None
    items = load_datalist(data_list, TARGET, require_label=True, check="header", progress=False)
    mapping = label_map(data_list)
    table = np.full(256, IGNORE, np.uint8)
    table[list(mapping)] = list(mapping.values())
    found: dict[str, list[dict[int, float]]] = {"kept": [], "rejected": []}
    ignored = []
    for item in items:
        path = folder / "pseudo_labels" / f"{item['case']}_Label.nii.gz"
        if not path.is_file():
            continue
        check_same_grid(path, item["label"])
        pseudo = table[read_label(path, (*mapping, IGNORE))[0]]
        truth = table[read_label(item["label"], tuple(mapping))[0]]
        seen = pseudo != IGNORE
        kind = "rejected" if item["case"] in rejected else "kept"
        found[kind].append(dice_per_class(pseudo[seen], truth[seen]))
        ignored.append(float((~seen).sum() / max(1, ((truth > 0) | (pseudo > 0)).sum())))
    if not ignored:
        return None
    result: dict[str, Any] = {"ignored_share": float(np.mean(ignored))}
    for kind, cases in found.items():
        dice = {CLASS_NAMES[label]: float(np.mean([case[label] for case in cases])) for label in FOREGROUND if cases}
        if dice:
            dice["mean"] = float(np.mean(list(dice.values())))
        result[kind] = {"cases": len(cases), "dice": dice}
    return result


def read_rounds(path: str | Path) -> list[dict[str, Any]]:
    """Read the rounds of a `rounds.json`.

    Raises:
        InputError: if it is missing or none.
    """
    try:
        rounds = json.loads(Path(path).read_text(encoding="utf-8"))["rounds"]
        [(entry["round"], entry["dice"]["mean"], entry["assd"]["VS"]) for entry in rounds]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is missing or no judgement of rounds: run self-training's evaluate.yaml") from None
    return rounds


def rounds_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """One row a round."""

    def number(value: float | None, digits: int = 3) -> str:
        return NONE if value is None else f"{value:.{digits}f}"

    rows = []
    for result in results:
        pseudo = (result.get("pseudo_labels") or {}).get("kept", {}).get("dice", {}).get("mean")
        kept, gap = result.get("kept_share"), result.get("gap_closed")
        rows.append(
            [
                str(result["round"]),
                *[number(result["dice"][name]) for name in ("VS", "cochlea", "mean")],
                *[number(result["assd"][name], 2) for name in ("VS", "cochlea")],
                NONE if gap is None else f"{gap:.0%}",
                NONE if kept is None else f"{kept:.0%}",
                number(pseudo),
            ]
        )
    return Table("Rounds of self-training (round 0: without); ASSD in mm", HEADER, rows)


def _mean_dice(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row[f"dice_{CLASS_NAMES[label]}"] for row in rows for label in FOREGROUND]))


evaluate_rounds_or_exit = exit_on_input_error(evaluate_rounds)
