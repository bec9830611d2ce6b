"""What an inference runs on: one scan, a folder of scans, or a section of a datalist."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from crossmoda.data.datalist import Item, load_datalist
from crossmoda.data.dicom import is_series
from crossmoda.data.validation import Check, find_faults, raise_first
from crossmoda.errors import InputError, exit_on_input_error

NIFTI_SUFFIXES = (".nii.gz", ".nii")
MODALITY_SUFFIXES = ("_ceT1", "_hrT2", "_T2")  # 2023 calls hrT2 plainly T2
NOT_A_SCAN = ("_Label", "_GIFoutput", "_seg", "_prob")
SITES = ("ldn", "etz", "ukm")


def stem(path: str | Path) -> str:
    """File name without `.nii.gz` or `.nii`."""
    name = Path(path).name
    for suffix in NIFTI_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def case_name(path: str | Path) -> str:
    """File name without extension and modality: `crossmoda2021_ldn_1_ceT1.nii.gz` -> `crossmoda2021_ldn_1`."""
    name = stem(path)
    for suffix in MODALITY_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def site_of(case: str) -> str:
    """Site within a crossMoDA case name; 2021 names have none and are all from London; other names give ''."""
    for site in SITES:
        if f"_{site}_" in case:
            return site
    return "ldn" if re.fullmatch(r"crossmoda_\d+", case) else ""


def input_items(
    input: str | Path | None = None,  # noqa: A002 - the command line's --input
    data_list: str | Path | None = None,
    section: str | None = None,
    check: Check = "full",
    progress: bool = True,
) -> list[Item]:
    """The validated items that an inference runs on.

    Args:
        input: a scan, or a folder whose `.nii.gz` and `.nii` files are scans (labels and results are passed over).
        data_list: a datalist file, instead of `input`.
        section: section of the datalist.
        check: as in `load_datalist`.
        progress: whether to show a bar while checking.

    Returns:
        Items {case, site, image} with absolute paths, and `label` where the datalist has it.

    Raises:
        InputError: if not just one of `input` and `data_list` is given, nothing is found, two files are of one case,
            or a file has a fault.
    """
    if bool(input) == bool(data_list):
        raise InputError("give either --input (a scan or a folder) or --data_list with --section")
    if data_list:
        if not section:
            raise InputError(f"--data_list {data_list} needs --section, e.g. target_validation")
        items = load_datalist(data_list, section, check=check, progress=progress)
        refuse_doubles(items, "give a list of one view, or each scan a case of its own")
        return items
    path = Path(input).absolute()
    images = _scans_in(path) if path.is_dir() else [path]
    items = [{"case": case_name(image), "site": site_of(case_name(image)), "image": str(image)} for image in images]
    refuse_doubles(items, "give a folder of one modality")
    raise_first(find_faults(items, check=check, progress=progress))
    return items


def _scans_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} may not be read ({error.strerror}): change its permissions") from None
    files = [path for path in entries if path.name.endswith(NIFTI_SUFFIXES) and path.name[0] != "."]
    scans = [path for path in files if not stem(path).endswith(NOT_A_SCAN)]
    if not scans:
        if is_series(folder) or any(is_series(path) for path in entries):
            raise InputError(f"{folder} holds DICOM slices: convert them to NIfTI with scripts/convert_dicom.py")
        raise InputError(f"{folder} holds no scan (*.nii.gz or *.nii): name the folder that does, or one file")
    return scans


def refuse_doubles(items: list[Item], mend: str) -> None:
    """Results are named by case, so two scans of one case would overwrite each other.

    Args:
        items: the scans.
        mend: what the user is to do.

    Raises:
        InputError: if two are of one case.
    """
    images = defaultdict(list)
    for item in items:
        images[item["case"]].append(item["image"])
    for case, paths in images.items():
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1]} are both of case {case}: {mend}")


input_items_or_exit = exit_on_input_error(input_items)
