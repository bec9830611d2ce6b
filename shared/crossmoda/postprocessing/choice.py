"""Which post-processing rules help, judged on cross-validation predictions (nnU-Net's way)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import check_same_grid, read_label, write_text
from crossmoda.errors import InputError
from crossmoda.metrics import dice_per_class
from crossmoda.postprocessing.rules import RULES, Classes, apply_rules, check_rules

Item = Mapping[str, Any]


def read_rules(rules: Sequence[str] | str | Path) -> list[str]:
    """Names of rules, given as such or as the JSON that `write_choice` wrote.

    Raises:
        InputError: if the file is missing or not such a JSON, or a rule is not known.
    """
    if isinstance(rules, (str, Path)):
        path = Path(rules).absolute()
        try:
            rules = json.loads(path.read_text(encoding="utf-8"))["postprocessing_rules"]
        except OSError as error:
            raise InputError(f"{path} can't be read ({error.strerror}): name a JSON file or a list of rules") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} names no post-processing rules: make it with choose_postprocessing.py") from None
    if not isinstance(rules, (list, tuple)) or not all(isinstance(name, str) for name in rules):
        raise InputError(f"postprocessing_rules is {rules!r}: give a list of {', '.join(RULES)}")
    check_rules(rules)
    return list(rules)


def choose_rules(
    items: Sequence[Item],
    label_maps: tuple[Mapping[int, int], Mapping[int, int]],
    classes: Classes,
    rules: Sequence[str] = tuple(RULES),
    threads: int | None = None,
) -> dict[str, Any]:
    """Try each rule on predictions whose truth is known, and keep those that raise the mean Dice.

    One after the other in the order given, each on top of what has been kept; a rule is kept if the mean over cases
    and classes rises. nnU-Net does so with its two component rules.

    Args:
        items: each {case, prediction, label}, the files' absolute paths under `prediction` and `label`; predictions of
            cross-validation, without post-processing.
        label_maps: classes in the prediction files and in the truth files to those of `crossmoda.labels`.
        classes: tumour and cochlea in the prediction files.
        rules: those to try.
        threads: cases at a time; None takes the number of cores, at most 8.

    Returns:
        {"postprocessing_rules": kept, "cases": n, "dice_before", "dice_after", "tried": [{"rule", "dice", "kept"}]}.

    Raises:
        InputError: if there are no items, a rule is unknown, or a file has a fault or another grid than its truth.
    """
    check_rules(rules)
    if not items:
        raise InputError("there are no cases to choose the post-processing by: give predictions with their labels")
    kept: list[str] = []
    best = before = _mean_dice(items, label_maps, classes, kept, threads)
    tried = []
    for name in rules:
        dice = _mean_dice(items, label_maps, classes, [*kept, name], threads)
        tried.append({"rule": name, "dice": dice, "kept": dice > best})
        if dice > best:
            kept, best = [*kept, name], dice
    return {
        "postprocessing_rules": kept,
        "cases": len(items),
        "dice_before": before,
        "dice_after": best,
        "tried": tried,
    }


def write_choice(choice: Mapping[str, Any], path: str | Path) -> None:
    """Write a choice (of rules, or of an ensemble's members) as JSON, whole or not at all.

    Raises:
        InputError: if the file can't be written.
    """
    try:
        write_text(json.dumps(choice, indent=1) + "\n", path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): give another --output") from None


def _mean_dice(
    items: Sequence[Item],
    label_maps: tuple[Mapping[int, int], Mapping[int, int]],
    classes: Classes,
    rules: Sequence[str],
    threads: int | None,
) -> float:
    prediction_map, truth_map = (_table(mapping) for mapping in label_maps)

    def dice(item: Item) -> float:
        check_same_grid(item["prediction"], item["label"])
        prediction, affine = read_label(item["prediction"], tuple(label_maps[0]))
        truth, _ = read_label(item["label"], tuple(label_maps[1]))
        cleaned = apply_rules(prediction, affine, rules, classes)
        return float(np.mean(list(dice_per_class(prediction_map[cleaned], truth_map[truth]).values())))

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        return float(np.mean(list(pool.map(dice, items))))


def _table(mapping: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return table
