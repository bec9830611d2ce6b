"""The cases that a Koos grade is learned from or asked for: both modalities, the tumour's mask, the grade."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import (
    check_same_grid,
    find_faults,
    input_items,
    label_map,
    load_datalist,
    read_label,
    read_sections,
)
from crossmoda.data.validation import Check, raise_first
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import GRADES

POST_OPERATIVE = "post-operative"  # the releases write "post-operative-london"
MODALITIES = ("ceT1", "hrT2")
MASK_CLASSES = tuple(range(256))  # a mask may hold structures beside the tumour

Item = dict[str, Any]


def graded_cases(data_list: str | Path, section: str) -> list[Item]:
    """Items of a section that have a Koos grade, without a look at their files.

    Post-operative cases have none and are left out, with a line that says how many.

    Args:
        data_list: the file.
        section: its section.

    Returns:
        Items with all their keys, absolute paths and `koos` from 1 to 4.

    Raises:
        InputError: if a case has no grade or an unknown one, or if no graded case is left.
    """
    listed = read_sections(data_list, (section,))[section]
    graded = [item for item in listed if not _is_post_operative(item)]
    if len(graded) < len(listed):
        print(f"{len(listed) - len(graded)} post-operative case(s) of {data_list} left out: they have no Koos grade")
    if not graded:
        raise InputError(f"{data_list} has no graded case in section '{section}': add 'koos' (1 to 4) to its items")
    return [{**item, "koos": _grade(item, data_list)} for item in graded]


def koos_items(
    data_list: str | Path,
    section: str = "source_training",
    translations: str | Path | None = None,
    check: Check = "full",
    progress: bool = True,
    pairs: bool = False,
) -> list[Item]:
    """Graded cases of a data list: ceT1 scans with label and grade, to learn from.

    Post-operative cases have no grade and are left out, with a line that says how many.

    Args:
        data_list: whose items have `image` (ceT1), `label`, `koos`, and `parcellation` where there is one.
        section: its section.
        translations: data list of the same section whose images are the pseudo-hrT2 of the same cases on the same grid,
            as the bundle `translation` writes; None leaves them out.
        check: as in `crossmoda.data.load_datalist`.
        progress: whether to show a bar while checking.
        pairs: whether `translations` must be given.

    Returns:
        Items {case, site, koos (1 to 4), ceT1, mask} with absolute paths, `hrT2` with `translations`, `parcellation`
        where the data list has one; in its order.

    Raises:
        InputError: without `translations` where pairs are wanted, at the first fault of a scan or label, a case without
            a grade or with an unknown one, without a translation or with one on another grid, or if no graded case is
            left.
    """
    if pairs and not translations:
        raise InputError(f"{data_list} has ceT1 alone: give --translations, datalist.json of the pseudo-hrT2 (MSF-Net)")
    graded = graded_cases(data_list, section)
    grades = {item["case"]: item["koos"] for item in graded}
    raise_first(find_faults(graded, True, check, tuple(label_map(data_list)), progress))
    images = _translations(translations, section, grades, check, progress) if translations else {}
    items = []
    for item in graded:
        if translations and check != "none":
            check_same_grid(images[item["case"]], item["image"])
        out = {"case": item["case"], "site": item["site"], "koos": grades[item["case"]], "ceT1": item["image"]}
        out |= {"hrT2": images[item["case"]]} if translations else {}
        out |= {"mask": item["label"]}
        items.append(out | ({"parcellation": item["parcellation"]} if item.get("parcellation") else {}))
    return items


def koos_inputs(
    input: str | Path | None = None,  # noqa: A002 - the command line's --input
    mask: str | Path | None = None,
    data_list: str | Path | None = None,
    section: str | None = None,
    masks: str | Path | None = None,
    modality: str = "hrT2",
    translations: str | Path | None = None,
    check: Check = "full",
    progress: bool = True,
) -> list[Item]:
    """Cases to grade: scans of one modality with the tumour's mask, and their other modality where it is given.

    Args:
        input: a scan, or a folder of scans.
        mask: label map of the one scan.
        data_list: instead of `input`, with its `section`; a label in it is not looked at.
        section: of the data list.
        masks: folder with `<case>_seg.nii.gz` of every case, as the segmentation bundles write them.
        modality: of the scans, `ceT1` or `hrT2`.
        translations: data list of the same section with the same cases' images of the other modality.
        check: as in `crossmoda.data.load_datalist`.
        progress: whether to show a bar while checking.

    Returns:
        Items {case, site, mask, `modality`, and the other modality with `translations`} with absolute paths. Grades
        are not read.

    Raises:
        InputError: if not just one of `mask` and `masks` is given, a mask is missing, damaged or on another grid than
            its scan, at the first fault of a scan, or if a case has no translation.
    """
    if modality not in MODALITIES:
        raise InputError(f"modality is '{modality}': give ceT1 or hrT2")
    if bool(mask) == bool(masks):
        raise InputError("give either --mask (label map of one scan) or --masks (folder of <case>_seg.nii.gz)")
    scans = input_items(input, data_list, section, check, progress)
    if mask and len(scans) != 1:
        raise InputError(f"--mask {mask} is for one scan, not for {len(scans)}: give --masks, a folder")
    cases = {item["case"]: None for item in scans}
    images = _translations(translations, section or "", cases, check, progress) if translations else {}
    other = MODALITIES[1 - MODALITIES.index(modality)]
    items = []
    for item in scans:
        path = Path(mask) if mask else Path(masks) / f"{item['case']}_seg.nii.gz"
        if not path.is_file():
            raise InputError(f"{path} is missing: segment {item['case']} first (bundle segmentation-2.5d or -3d)")
        if check != "none":
            for volume in (path, images.get(item["case"])):
                if volume:
                    check_same_grid(volume, item["image"])
        out = {"case": item["case"], "site": item["site"], modality: item["image"], "mask": str(path.absolute())}
        items.append(out | ({other: images[item["case"]]} if translations else {}))
    return items


def split_empty(items: Sequence[Item], tumour_labels: Collection[int] = (1,)) -> tuple[list[Item], list[Item]]:
    """Cases whose mask has a tumour, and those whose mask has none; each in the order given.

    Args:
        items: of `koos_inputs`.
        tumour_labels: classes of the masks that together are the tumour.

    Raises:
        InputError: if a mask can't be read or is no label map.
    """
    empty = [not np.isin(read_label(item["mask"], MASK_CLASSES)[0], list(tumour_labels)).any() for item in items]
    with_tumour = [item for item, without in zip(items, empty, strict=True) if not without]
    return with_tumour, [item for item, without in zip(items, empty, strict=True) if without]


def tumour_labels(data_list: str | Path) -> list[int]:
    """Classes in a data list's label files that are the tumour: what its `label_map` makes VS.

    Raises:
        InputError: as `crossmoda.data.label_map`.
    """
    return sorted(label for label, merged in label_map(data_list).items() if merged == 1)


def _is_post_operative(item: Mapping[str, Any]) -> bool:
    return str(item.get("koos", "")).startswith(POST_OPERATIVE)


def _grade(item: Mapping[str, Any], data_list: str | Path) -> int:
    if item.get("koos") is None:
        raise InputError(f"{data_list}: case {item['case']} has no 'koos': add its grade (1 to 4), or leave it out")
    if isinstance(item["koos"], bool) or item["koos"] not in GRADES:
        raise InputError(f"{data_list}: case {item['case']} has Koos grade '{item['koos']}': give 1 to 4")
    return int(item["koos"])


def _translations(
    data_list: str | Path, section: str, cases: Collection[str], check: Check, progress: bool
) -> dict[str, str]:
    """Image of each case in a data list of translations."""
    images = {item["case"]: item["image"] for item in load_datalist(data_list, section, False, check, progress)}
    missing = [case for case in cases if case not in images]
    if missing:
        raise InputError(f"{data_list} has no image of case {missing[0]}: translate section '{section}' again")
    return images


koos_items_or_exit = exit_on_input_error(koos_items)
koos_inputs_or_exit = exit_on_input_error(koos_inputs)
split_empty_or_exit = exit_on_input_error(split_empty)
tumour_labels_or_exit = exit_on_input_error(tumour_labels)
