"""datalist.json: the list of scans that every stage reads, and how it is split, derived and written.

The format is the decathlon's, with three sections, paths relative to the file, and at the top level whatever else
holds for all items:

    {"label_map": {"1": 1, "2": 1, "3": 2},
     "source_training":   [{"case", "site", "image", "label", "koos", "parcellation"}, ...],
     "target_training":   [{"case", "site", "image"}, ...],
     "target_validation": [{"case", "site", "image"}, ...]}

`label`, `koos` (1-4 or "post-operative-london") and `parcellation` are optional, and so is `label_map`, which says how
the classes in the label files become those of `crossmoda.labels` (the 2023 release has three).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.validation import Check, find_faults, raise_first
from crossmoda.data.writing import write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES, MERGE_2023

SECTIONS = ("source_training", "target_training", "target_validation")
FILE_KEYS = ("image", "label", "parcellation")
CORE_KEYS = ("case", "site", "image", "label")

Item = dict[str, Any]


def load_datalist(
    path: str | Path,
    section: str,
    require_label: bool = False,
    check: Check = "full",
    progress: bool = True,
    extra_keys: Sequence[str] = (),
    needs: Sequence[str] = (),
) -> list[Item]:
    """Read and validate one section of a datalist.

    MONAI's `load_decathlon_datalist` reads the same format but validates nothing, so that a bad file shows up as a
    traceback in the middle of an epoch.

    Args:
        path: the datalist file.
        section: one of its sections, e.g. `source_training`.
        require_label: whether every item must have a label.
        check: `full` reads every voxel (missing, damaged, not 3D, not finite, wrong label values, label on another
            grid), `header` only the headers, `none` only the list.
        progress: whether to show a bar while checking (only on a terminal).
        extra_keys: optional keys to keep beside `case, site, image, label`. Left out by default because MONAI
            can't collate a batch in which they are partly absent or, as `koos`, of mixed types.
        needs: optional keys to keep that every item must have, e.g. `parcellation`.

    Returns:
        The items, in the order of the file, with absolute paths.

    Raises:
        InputError: at the first fault, in one line that also says how many more there are.
    """
    content = _read_content(path)
    items = _section(content, path, section)
    folder = Path(path).absolute().parent
    for item in items:
        lacking = [key for key in needs if not item.get(key)]
        if lacking:
            raise InputError(f"{Path(path).absolute()}: {item['case']} has no '{lacking[0]}': add it, or leave it out")
    items = [_absolute(item, folder, (*CORE_KEYS, *extra_keys, *needs)) for item in items]
    allowed = tuple(_label_map(content, path))
    raise_first(find_faults(items, require_label, check, allowed, progress))
    return items


def read_sections(path: str | Path, names: Sequence[str] = SECTIONS) -> dict[str, list[Item]]:
    """Read the sections that a datalist has, without looking at the files.

    Args:
        path: the datalist file.
        names: the sections wanted; those that are absent or empty are left out.

    Returns:
        For each section its items with all their keys and absolute paths, in the order of the file.

    Raises:
        InputError: if the file can't be read, none of the sections has an item, an item has no case or image, or
            there is a section of another name, which would be passed over.
    """
    content = _read_content(path)
    unknown = sorted(name for name, value in content.items() if isinstance(value, list) and name not in SECTIONS)
    if unknown:
        raise InputError(
            f"{Path(path).absolute()} has an unknown section '{unknown[0]}': name it {', '.join(SECTIONS[:-1])}"
            f" or {SECTIONS[-1]}, or take it out"
        )
    present = [name for name in names if content.get(name)]
    if not present:
        raise InputError(f"{Path(path).absolute()} has no items in {', '.join(names)}: make it with make_datalist.py")
    folder = Path(path).absolute().parent
    return {name: [_absolute(item, folder) for item in _section(content, path, name)] for name in present}


def label_map(path: str | Path) -> dict[int, int]:
    """How the classes in a datalist's label files become those of `crossmoda.labels`.

    For MONAI's `MapLabelValued(orig_labels=list(m), target_labels=list(m.values()))`.

    Args:
        path: the datalist file.

    Returns:
        The file's `label_map` with 0 -> 0 added, or the identity if it has none.

    Raises:
        InputError: if the file can't be read or its `label_map` is not one from numbers to known classes.
    """
    return _label_map(_read_content(path), path)


def merges_parts(mapping: Mapping[int, int], part_map: Mapping[int, int]) -> bool:
    """Whether a datalist's `label_map` merges the parts that `part_map` names into VS, and leaves the rest.

    Args:
        mapping: of `label_map`.
        part_map: from the same label files' classes to those of `LABELS_2023`.
    """
    return dict(mapping) == {label: MERGE_2023.get(part) for label, part in part_map.items()}


def part_map(path: str | Path, classes: Mapping[int, int]) -> dict[int, int]:
    """In place of `label_map`, for a network that divides the tumour into parts (`LABELS_2023`).

    Args:
        path: the datalist file.
        classes: from the label files' classes to those of `LABELS_2023`; 0 is background.

    Returns:
        `classes`.

    Raises:
        InputError: if the file can't be read, or its `label_map` does not say that the labels have these parts.
    """
    found = label_map(path)
    if not merges_parts(found, classes):
        shown = ", ".join(f"{label}: {merged}" for label, merged in sorted(found.items()))
        raise InputError(
            f"{Path(path).absolute()} has labels without parts of the tumour (label_map {{{shown}}}): take a list of"
            " crossMoDA 2023, or leave out methods/three_class.yaml"
        )
    return dict(classes)


def split_cases(
    items: Sequence[Item], val_fraction: float, seed: int, fold: int | None = None, num_folds: int = 5
) -> tuple[list[Item], list[Item]]:
    """Split items into training and validation, by case and evenly over the sites.

    Items of one case (a subject's volume from several translators, say) stay together. The same cases and seed give
    the same split, whatever the order of the items.

    Args:
        items: datalist items.
        val_fraction: share of the cases for validation, in (0, 1); each part gets at least one case. With a fold it
            has no effect.
        seed: seed of the choice.
        fold: for cross-validation, which of the folds 0 to `num_folds` - 1 is for validation: each case is so in one
            of them, and their sizes differ by one case at most. None makes one split by `val_fraction`.
        num_folds: number of folds, at least two.

    Returns:
        Training items and validation items, each in the order given.

    Raises:
        InputError: if there are fewer than two cases, fewer cases than folds, or the fraction or fold is out of range.
    """
    sites = {item["case"]: item.get("site", "") for item in items}
    if fold is None and not 0 < val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}: give a share between 0 and 1, e.g. 0.2")
    if fold is not None and not (num_folds >= 2 and 0 <= fold < num_folds):
        raise InputError(f"fold is {fold} of {num_folds}: give 0 to num_folds - 1, and at least two folds")
    if len(sites) < 2:
        raise InputError(f"{len(sites)} case(s) can't be split into training and validation: give at least two cases")
    if fold is not None and len(sites) < num_folds:
        raise InputError(f"{len(sites)} cases can't be split into {num_folds} folds: give num_folds <= {len(sites)}")
    cases = _evenly_over_sites(sites, seed)
    if fold is None:
        chosen = set(cases[: min(max(round(val_fraction * len(cases)), 1), len(cases) - 1)])
    else:
        # Neighbours in the order are of different sites, so that equal parts of it would mix sites as steps do; parts
        # make fold 0 of five the same as val_fraction 0.2.
        first, last = (round(len(cases) * end / num_folds) for end in (fold, fold + 1))
        chosen = set(cases[first:last])
    return (
        [item for item in items if item["case"] not in chosen],
        [item for item in items if item["case"] in chosen],
    )


def _evenly_over_sites(sites: Mapping[str, str], seed: int) -> list[str]:
    """Cases in a random order of which every part holds the sites in about the same proportions."""
    cases_of = defaultdict(list)
    for case in sorted(sites):
        cases_of[sites[case]].append(case)
    random = np.random.RandomState(seed)
    ranks = {}
    for site in sorted(cases_of):
        for place, index in enumerate(random.permutation(len(cases_of[site]))):
            # The middle of the place-th of equal steps in (0, 1): taking the lowest ranks takes evenly from all sites.
            ranks[cases_of[site][index]] = ((place + 0.5) / len(cases_of[site]), site)
    return sorted(ranks, key=ranks.__getitem__)


def write_datalist(
    sections: Mapping[str, Sequence[Item]], path: str | Path, label_map: Mapping[int, int] | None = None
) -> None:
    """Write a datalist with paths relative to it, under a temporary name that is then renamed.

    Args:
        sections: items per section, with absolute paths (or relative to the working directory).
        path: the file to write; folders are made.
        label_map: written if it is not the identity, see the module's docstring.
    """
    path = Path(os.path.abspath(path))
    content: dict[str, Any] = {}
    if label_map is not None and any(key != value for key, value in label_map.items()):
        content["label_map"] = {str(key): int(value) for key, value in sorted(label_map.items())}
    for section, items in sections.items():
        content[section] = [_relative(item, path.parent) for item in items]
    write_text(json.dumps(content, indent=1) + "\n", path)


def replace_images(
    items: Sequence[Item],
    folder: str | Path,
    suffix: str,
    path: str | Path,
    section: str = "source_training",
    data_list: str | Path | None = None,
) -> None:
    """Write a datalist whose images are `<folder>/<case>_<suffix>.nii.gz` and whose labels are those of `items`.

    Args:
        items: items with absolute paths, e.g. the source section that was translated.
        folder: where the new images lie.
        suffix: e.g. `hrT2`.
        path: the datalist to write.
        section: the section's name, in both lists.
        data_list: the list that `items` came from, for what they don't carry: `label_map` and the optional keys.

    Raises:
        InputError: if one of the new images is missing.
    """
    full_items = {}
    if data_list is not None:
        content, base = _read_content(data_list), Path(data_list).absolute().parent
        full_items = {item["case"]: _absolute(item, base) for item in _section(content, data_list, section)}
    replaced = []
    for item in items:
        image = Path(folder).absolute() / f"{item['case']}_{suffix}.nii.gz"
        if not image.is_file():
            raise InputError(f"{image} is missing: run the translation of {section} again")
        item = {**full_items.get(item["case"], {}), **{key: item[key] for key in CORE_KEYS if key in item}}
        replaced.append({**item, "image": str(image)})
    write_datalist({section: replaced}, path, label_map(data_list) if data_list is not None else None)


def _read_content(path: str | Path) -> dict[str, Any]:
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"{path} is missing: make it with scripts/make_datalist.py")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} may not be read ({error.strerror}): change its permissions") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file ({error}): make it again with scripts/make_datalist.py") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a data list (no sections): make it with scripts/make_datalist.py")
    return content


def _section(content: dict[str, Any], path: str | Path, section: str) -> list[Item]:
    path = Path(path).absolute()
    items = content.get(section)
    if not items or not isinstance(items, list):
        present = [name for name, value in content.items() if isinstance(value, list) and value]
        hint = f"it has {', '.join(present)}" if present else "the list is empty"
        raise InputError(
            f"{path} has no items in section '{section}' ({hint}): make it again with scripts/make_datalist.py,"
            " or name another section"
        )
    for index, item in enumerate(items):
        missing = [key for key in ("case", "image") if not isinstance(item, dict) or not item.get(key)]
        if missing:
            raise InputError(f"{path}, section '{section}', item {index} has no '{missing[0]}': add it")
        wrong = [key for key in ("case", *FILE_KEYS) if item.get(key) and not isinstance(item[key], str)]
        if wrong:
            raise InputError(f"{path}, section '{section}', item {index}: '{wrong[0]}' is no text: correct it")
    return items


def _label_map(content: dict[str, Any], path: str | Path) -> dict[int, int]:
    entries = content.get("label_map")
    if entries is None:
        return {label: label for label in CLASS_NAMES}
    try:
        mapping = {0: 0, **{int(key): int(value) for key, value in entries.items()}}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path} has a label_map that does not map numbers to numbers: correct it") from None
    unknown = set(mapping.values()) - set(CLASS_NAMES)
    if unknown:
        raise InputError(f"{path} has a label_map to unknown classes {sorted(unknown)}: map to {sorted(CLASS_NAMES)}")
    return mapping


def _absolute(item: Item, folder: Path, keys: Sequence[str] | None = None) -> Item:
    """A copy with absolute paths, a site, and only the keys wanted."""
    item = {"site": "", **{key: value for key, value in item.items() if keys is None or key in keys}}
    for key in FILE_KEYS:
        if item.get(key):
            item[key] = os.path.normpath(folder / item[key])
    return item


def _relative(item: Item, folder: Path) -> Item:
    return {
        key: os.path.relpath(os.path.abspath(value), folder) if key in FILE_KEYS and value else value
        for key, value in item.items()
    }


load_datalist_or_exit = exit_on_input_error(load_datalist)
label_map_or_exit = exit_on_input_error(label_map)
part_map_or_exit = exit_on_input_error(part_map)
split_cases_or_exit = exit_on_input_error(split_cases)
replace_images_or_exit = exit_on_input_error(replace_images)
