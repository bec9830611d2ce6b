"""nnU-Net's choice of an ensemble: the best single member or pair in cross-validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data import label_map, load_datalist, read_header, read_label, same_grid
from crossmoda.errors import InputError
from crossmoda.fusion.members import CaseFiles, Member, as_members, classes_of, count_classes, find_cases
from crossmoda.fusion.rules import RULES
from crossmoda.labels import CLASS_NAMES, COCHLEA, NUM_CLASSES, VS
from crossmoda.metrics import dice_per_class


def choose_members(
    members: Sequence[str | Path], data_list: str | Path, section: str, progress: bool = True
) -> dict[str, Any]:
    """Find the single member, or the pair by mean probability, of highest mean Dice (of VS and cochlea).

    Each case is judged with the results of members that were not trained on it; a member's folds together cover them.
    All members' probabilities of one case are held at a time.

    Args:
        members: folders of cross-validation predictions with probabilities, or NAME=FOLDER.
        data_list: data list with the truth.
        section: its section, e.g. `source_training`.
        progress: whether to show a bar.

    Returns:
        {"members": names, "rule": "mean", "dice", "cases": n, "candidates": [{"members", "dice", "dice_VS",
        "dice_cochlea"}], best first}. Of equal candidates the single, and the one given first, comes first.

    Raises:
        InputError: if members differ in cases, grid or classes, lack probabilities, or a label has a fault.
    """
    found = as_members(members)
    items = load_datalist(data_list, section, require_label=True, check="header", progress=False)
    cases = find_cases(found, "probabilities", [item["case"] for item in items])
    num_classes = count_classes(found, cases[0], NUM_CLASSES)
    classes = classes_of(num_classes)
    to_schema = np.zeros(256, np.uint8)
    to_schema[list(classes.tumour)], to_schema[classes.cochlea] = VS, COCHLEA
    truth_map = label_map(data_list)
    scores: dict[tuple[int, ...], list[list[float]]] = {}
    for item in tqdm(items, desc="Choosing", unit="case", leave=False, disable=None if progress else True):
        truth = _truth(item, found[0], truth_map)
        volumes = list(CaseFiles(item["case"], tuple(found), num_classes).probabilities())
        for group in _candidates(len(found)):
            fused = sum(volumes[index] for index in group).argmax(axis=0)
            dice = dice_per_class(to_schema[fused], truth)
            scores.setdefault(group, []).append([dice[label] for label in sorted(dice)])
    rows = [_row(group, values, found) for group, values in scores.items()]
    rows.sort(key=lambda row: -row["dice"])  # stable: singles, and what was given first, stay in front
    best = {"members": rows[0]["members"], "rule": "mean", "dice": rows[0]["dice"]}
    return {**best, "cases": len(items), "candidates": rows}


def read_choice(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Read what `write_choice` wrote.

    Args:
        path: the JSON.
        names: the members that there are.

    Raises:
        InputError: if the file is missing or not such a JSON, or names a member that is not there.
    """
    path = Path(path).absolute()
    try:
        choice = json.loads(path.read_text(encoding="utf-8"))
        chosen, rule = list(choice["members"]), choice["rule"]
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): make it with choose_ensemble.py") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a choice of members: make it with choose_ensemble.py") from None
    if rule not in RULES or not chosen:
        raise InputError(f"{path} is not a choice of members: make it with choose_ensemble.py")
    absent = [name for name in chosen if name not in names]
    if absent:
        raise InputError(f"{path} chose '{absent[0]}', which is not among the members: name them as it does, NAME=DIR")
    return {"members": chosen, "rule": rule}


def _candidates(count: int) -> list[tuple[int, ...]]:
    return [*combinations(range(count), 1), *combinations(range(count), 2)]


def _truth(item: Mapping[str, Any], member: Member, mapping: Mapping[int, int]) -> np.ndarray:
    grid = CaseFiles(item["case"], (member,), NUM_CLASSES).grid
    if not same_grid(grid, read_header(item["label"])):
        raise InputError(f"{grid.path} lies on another grid than {item['label']}: take predictions of the same scan")
    labels, _ = read_label(item["label"], tuple(mapping))
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return table[labels]


def _row(group: Sequence[int], values: Sequence[Sequence[float]], members: Sequence[Member]) -> dict[str, Any]:
    means = np.mean(values, axis=0)
    names = [name for label, name in sorted(CLASS_NAMES.items()) if label]
    row = {"members": [members[index].name for index in group], "dice": float(means.mean())}
    return row | {f"dice_{name}": float(value) for name, value in zip(names, means, strict=True)}
