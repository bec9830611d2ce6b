"""Features of many cases: measured from files, kept as a table that is all the baseline learns from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data import check_same_grid, label_map, read_label, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.geometry import EXTRA_MEATAL, FEATURES, GeometrySettings, geometric_features, masks_by_name
from crossmoda.koos.items import GRADES, MASK_CLASSES, Item
from crossmoda.koos.jitter import JitterMasks
from crossmoda.labels import COCHLEA
from crossmoda.metrics.tables import write_rows

MASK, PARCELLATION = "mask", "parcellation"  # the files of an item that hold structures
FEATURES_FILE, SETTINGS_FILE = "features.csv", "geometry.json"

Classes = dict[str, tuple[str, list[int]]]


@dataclass(frozen=True)
class FeatureTable:
    """Features of graded cases, with copies of jittered masks.

    Attributes:
        cases: of each row, (N,).
        grades: of each row, (N,).
        copies: 0 for a case's own masks, from 1 on for jittered ones, (N,).
        values: (N, F) in the order of `FEATURES`, NaN where a feature could not be measured.
    """

    cases: np.ndarray
    grades: np.ndarray
    copies: np.ndarray
    values: np.ndarray

    def of(self, cases: Collection[str], copies: bool = True) -> FeatureTable:
        """The rows of some cases, or only those of their own masks."""
        rows = np.isin(self.cases, list(cases)) & (copies | (self.copies == 0))
        return FeatureTable(self.cases[rows], self.grades[rows], self.copies[rows], self.values[rows])


def structure_classes(
    mask_classes: Mapping[str, Sequence[int]], structures: Mapping[str, Sequence[int]], volume: str = MASK
) -> Classes:
    """Where each structure stands, for `crossmoda.koos.geometry.masks_by_name`.

    Args:
        mask_classes: classes of `VS`, `cochlea`, and `extra_meatal` where the mask has parts, in an item's mask.
        structures: classes of `brainstem` and `cerebellum`.
        volume: the item's file that has the latter, `mask` or `parcellation`.

    Raises:
        InputError: if there is no `VS` or a name is unknown.
    """
    known = {"VS", "cochlea", EXTRA_MEATAL}
    unknown = sorted((set(mask_classes) - known) | (set(structures) - {"brainstem", "cerebellum"}))
    if unknown or not mask_classes.get("VS"):
        wrong = f"has the unknown '{unknown[0]}'" if unknown else "has no VS"
        raise InputError(f"the config's classes of structures: it {wrong}: give VS, cochlea, brainstem, cerebellum")
    return {name: (MASK, list(ids)) for name, ids in mask_classes.items()} | {
        name: (volume, list(ids)) for name, ids in structures.items()
    }


def label_classes(data_list: str | Path, parts: Sequence[int] = ()) -> dict[str, list[int]]:
    """Classes of tumour and cochlea in a data list's label files, by its `label_map`.

    Args:
        data_list: the file.
        parts: classes of the tumour outside the canal, if the labels have parts and they shall be used.

    Raises:
        InputError: as `crossmoda.data.label_map`.
    """
    mapping = label_map(data_list)
    classes = {
        name: [label for label, merged in mapping.items() if merged == target]
        for name, target in (("VS", 1), ("cochlea", COCHLEA))
    }
    return classes | ({EXTRA_MEATAL: list(parts)} if parts else {})


def measure_case(
    item: Item, classes: Classes, settings: GeometrySettings, copies: int = 0, jitter: JitterMasks | None = None
) -> list[dict[str, float]] | None:
    """Features of one case, and of jittered copies of its masks.

    Args:
        item: with `mask` and, if `classes` ask for it, `parcellation`.
        classes: of `structure_classes`.
        settings: of the features.
        copies: number of jittered copies.
        jitter: how they are made.

    Returns:
        One dict a copy, the case's own first; None if there is no tumour in the mask.

    Raises:
        InputError: if a file is damaged, no label map, or lies on another grid than the mask.
    """
    volumes = {}
    for name in {volume for volume, _ in classes.values()}:
        if item.get(name):
            volumes[name], affine = read_label(item[name], MASK_CLASSES)
            check_same_grid(item[name], item[MASK])
    masks = masks_by_name(volumes, classes)
    if not masks["VS"].any():
        return None
    rows = [geometric_features(masks, affine, settings)]
    for _ in range(copies):
        rows.append(geometric_features(jitter(masks, affine), affine, settings))
    return rows


def measure_graded(
    items: Sequence[Item],
    classes: Classes,
    settings: GeometrySettings,
    copies: int,
    jitter: JitterMasks,
    seed: int,
    progress: bool = True,
) -> FeatureTable:
    """Features of graded cases and their jittered copies; the same whatever the order of the cases.

    Raises:
        InputError: as `measure_case`, or if a case's mask has no tumour.
    """
    rows = []
    for item in tqdm(items, desc="Measuring", unit="case", leave=False, disable=None if progress else True):
        digits = np.frombuffer(item["case"].encode(), np.uint8).tolist()
        jitter.set_random_state(state=np.random.RandomState(np.random.SeedSequence([seed, *digits]).generate_state(4)))
        found = measure_case(item, classes, settings, copies, jitter)
        if found is None:
            raise InputError(f"{item[MASK]} has no tumour: correct it, or leave the case out")
        rows += [(item["case"], item["koos"], copy, list(values.values())) for copy, values in enumerate(found)]
    cases, grades, numbers, values = zip(*rows, strict=True)
    return FeatureTable(np.array(cases), np.array(grades), np.array(numbers), np.array(values))


def write_table(table: FeatureTable, settings: Mapping[str, Any], folder: str | Path) -> None:
    """Write `features.csv` and `geometry.json`, what the grading of new cases needs.

    Args:
        table: of the training cases.
        settings: JSON-ready; holds `features`, the `GeometrySettings`.
        folder: made if it is not there.
    """
    rows = [
        {"case": case, "koos": int(grade), "copy": int(copy)}
        | {name: "" if math.isnan(value) else float(value) for name, value in zip(FEATURES, values, strict=True)}
        for case, grade, copy, values in zip(table.cases, table.grades, table.copies, table.values, strict=True)
    ]
    write_rows(rows, Path(folder) / FEATURES_FILE)
    # Last, because the pipeline takes this file as the sign that the training is done.
    write_text(json.dumps(dict(settings), indent=1) + "\n", Path(folder) / SETTINGS_FILE)


def read_table(folder: str | Path) -> tuple[FeatureTable, dict[str, Any]]:
    """Read what `write_table` wrote.

    Returns:
        The table, and the settings with a `GeometrySettings` under `features`.

    Raises:
        InputError: if a file is missing, damaged, or of other features.
    """
    path = Path(folder).absolute() / FEATURES_FILE
    again = "train it again with geometry_train.yaml"
    if not path.is_file():
        raise InputError(f"{path} is missing: make it with geometry_train.yaml, or give --geometry_dir")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if reader.fieldnames != ["case", "koos", "copy", *FEATURES] or not rows:
            raise InputError(f"{path} has other columns than this version's features: {again}")
        values = np.array([[float(row[name] or "nan") for name in FEATURES] for row in rows])
        grades, copies = (np.array([int(row[name]) for row in rows]) for name in ("koos", "copy"))
        settings = json.loads((path.parent / SETTINGS_FILE).read_text(encoding="utf-8"))
        settings["features"] = GeometrySettings(**settings["features"])
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{path.parent} holds no trained baseline ({type(error).__name__}): {again}") from None
    if not set(grades) <= set(GRADES):
        raise InputError(f"{path} has grades that are none of {GRADES}: {again}")
    return FeatureTable(np.array([row["case"] for row in rows]), grades, copies, values), settings


def as_json(settings: GeometrySettings) -> dict[str, float]:
    """The settings as `write_table` takes them."""
    return asdict(settings)


structure_classes_or_exit = exit_on_input_error(structure_classes)
label_classes_or_exit = exit_on_input_error(label_classes)
