"""Finds the scans of a crossMoDA release, or of any folder by patterns, and makes datalist sections of them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crossmoda.data.datalist import SECTIONS, Item
from crossmoda.data.dicom import is_series
from crossmoda.data.inputs import NIFTI_SUFFIXES, case_name, site_of
from crossmoda.errors import InputError
from crossmoda.labels import MERGE_2023

Sections = dict[str, list[Item]]

LABEL_SUFFIX = "_Label.nii.gz"
PARCELLATION_SUFFIX = "_GIFoutput.nii.gz"
INFOS = "infos_source_training.csv"
# Archives unpack to ROOT/crossmoda2022_training/training_source or to a folder of the archive's name around it.
MAX_DEPTH = 4


@dataclass(frozen=True)
class Layout:
    """Names in one release; folders are looked for at any depth to `MAX_DEPTH`."""

    name: str
    source: str
    target: str
    validation: tuple[str, ...]
    target_suffix: str
    label_map: Mapping[int, int] | None = None
    source_suffix: str = "_ceT1.nii.gz"


LAYOUTS = (
    Layout("2021", "source_training", "target_training", ("target_validation",), "_hrT2.nii.gz"),
    Layout("2022", "training_source", "training_target", ("validation",), "_hrT2.nii.gz"),
    Layout("2023", "TrainingSource", "TrainingTarget", ("crossmoda23_validation",), "_T2.nii.gz", MERGE_2023),
)


@dataclass
class Release:
    """What was found.

    Attributes:
        name: the release, or "patterns".
        sections: items per section, with absolute paths.
        label_map: classes in the label files to those of `crossmoda.labels`; None if they are the same.
        faults: what is amiss with the set as a whole, one line each.
    """

    name: str
    sections: Sections
    label_map: Mapping[int, int] | None = None
    faults: list[str] = field(default_factory=list)


def find_release(root: str | Path) -> Release:
    """Find the scans of the 2021, 2022 or 2023 release under a folder.

    Args:
        root: the folder that the archives were unpacked in, or one inside it.

    Raises:
        InputError: if there is no release, or more than one.
    """
    root = _existing_folder(root)
    folders = list(_folders(root))
    found = [(layout, _release_sections(layout, folders)) for layout in LAYOUTS]
    present = [(layout, sections) for layout, sections in found if any(sections.values())]
    if not present:
        names = "; ".join(f"{layout.source}/*{layout.source_suffix} ({layout.name})" for layout in LAYOUTS)
        raise InputError(
            f"{root} holds no crossMoDA release (looked for {names}): name the folder that does,"
            " or give patterns (--source_images and the like)"
        )
    if len(present) > 1:
        names = " and ".join(layout.name for layout, _ in present)
        raise InputError(f"{root} holds the releases {names}: name the folder of one of them")
    layout, sections = present[0]
    release = Release(layout.name, sections, layout.label_map)
    release.faults += _add_koos(
        release.sections["source_training"], [folder / INFOS for folder in folders if (folder / INFOS).is_file()]
    )
    release.faults += _section_faults(release.sections, "{case}" + LABEL_SUFFIX)
    return release


def find_by_patterns(root: str | Path, images: Mapping[str, str], labels: Mapping[str, str]) -> Release:
    """Find scans by file-name patterns.

    A pattern is a path below `root` with `{case}` where the case's name stands, e.g. `T1/{case}_T1.nii.gz`; `{site}`
    may stand for the site, and `*` for anything else within one name. A label belongs to the image of the same
    case. An image may be a folder with a DICOM series, e.g. of the pattern `T2/{case}`.

    Args:
        root: the folder.
        images: pattern per section.
        labels: pattern per section, for the sections that have labels.

    Raises:
        InputError: if a pattern is wrong or matches no file.
    """
    root = _existing_folder(root)
    release = Release("patterns", {section: [] for section in SECTIONS})
    for section, pattern in images.items():
        label_of = {}
        if section in labels:
            label_of = {case: str(path) for case, _, path in _matches(root, labels[section])}
        for case, site, path in _matches(root, pattern):
            item = {"case": case, "site": site or site_of(case), "image": str(path)}
            if case in label_of:
                item["label"] = label_of[case]
            elif label_of and section != "source_training":
                release.faults.append(f"{path} has no label matching {labels[section]}: add it, or leave the scan out")
            release.sections[section].append(item)
    release.faults += _section_faults(release.sections, labels.get("source_training", "a pattern --source_labels"))
    return release


def attach_truth(release: Release, folder: str | Path) -> None:
    """Attach `<case>_Label.nii.gz` files found anywhere below a folder to the target sections.

    Koos grades in `infos_*.csv` files there go with them. For an oracle's list and for evaluation, or for a data
    owner's own labels. Sections none of whose cases has a label stay without.

    Args:
        release: changed in place; in a section that has some labels, a case without one is a fault.
        folder: where the labels lie.

    Raises:
        InputError: if no label there belongs to a target scan.
    """
    folder = _existing_folder(folder)
    label_of = {path.name.removesuffix(LABEL_SUFFIX): path for path in sorted(folder.rglob("*" + LABEL_SUFFIX))}
    tables = sorted(folder.rglob("infos_*.csv"))
    attached = False
    for section in SECTIONS[1:]:
        items = release.sections[section]
        if not any(item["case"] in label_of for item in items):
            continue
        attached = True
        release.faults += _add_koos(items, tables)
        for item in items:
            if item["case"] in label_of:
                item["label"] = str(label_of[item["case"]])
            else:
                release.faults.append(f"{item['image']} has no {item['case']}{LABEL_SUFFIX} under {folder}: add it")
    if not attached:
        raise InputError(f"{folder} holds no <case>{LABEL_SUFFIX} of a target scan: name the folder that does")


def _release_sections(layout: Layout, folders: list[Path]) -> Sections:
    named = {
        "source_training": ((layout.source,), layout.source_suffix),
        "target_training": ((layout.target,), layout.target_suffix),
        "target_validation": (layout.validation, layout.target_suffix),
    }
    sections = {}
    for section, (names, suffix) in named.items():
        images = [image for folder in folders if folder.name in names for image in folder.glob("*" + suffix)]
        sections[section] = [_item(image, section, layout) for image in sorted(images, key=_natural)]
    return sections


def _item(image: Path, section: str, layout: Layout) -> Item:
    case = case_name(image)
    item = {"case": case, "site": site_of(case), "image": str(image)}
    if section == "source_training":
        label = image.with_name(case + LABEL_SUFFIX)
        if label.exists():
            item["label"] = str(label)
        parcellation = image.parent.with_name(layout.source + "_GIF") / (case + PARCELLATION_SUFFIX)
        if parcellation.exists():
            item["parcellation"] = str(parcellation)
    return item


def _add_koos(items: list[Item], tables: list[Path]) -> list[str]:
    """Add the grades of infos CSV files; returns faults. A case that is not in them has no grade."""
    faults, grades = [], {}
    for path in tables:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"crossmoda_name", "koos"} <= set(reader.fieldnames or ()):
                faults.append(f"{path} has no columns crossmoda_name and koos: copy it again")
                continue
            for row in reader:
                text = (row["koos"] or "").strip()
                if re.fullmatch(r"[1-4](\.0)?", text):
                    grades[case_name(row["crossmoda_name"])] = int(text[0])
                elif re.match(r"\d", text):
                    faults.append(f"{path}: koos of {row['crossmoda_name']} is {text}: correct it to 1, 2, 3 or 4")
                elif text:
                    grades[case_name(row["crossmoda_name"])] = text  # post-operative-london
    for item in items:
        if item["case"] in grades:
            item["koos"] = grades[item["case"]]
    return faults


def _section_faults(sections: Sections, label: str) -> list[str]:
    """Source scans without labels (one line if none has any) and cases that occur twice."""
    faults = []
    source = sections["source_training"]
    unlabelled = [item for item in source if "label" not in item]
    if source and len(unlabelled) == len(source):
        folder = Path(source[0]["image"]).parent
        faults.append(f"{folder} holds {len(source)} source scans but no labels: add {label}")
    else:
        for item in unlabelled:
            faults.append(f"{item['image']} has no label: add {label.replace('{case}', item['case'])}")
    for items in sections.values():
        first: dict[str, str] = {}
        for item in items:
            if item["case"] in first:
                faults.append(f"{item['image']} and {first[item['case']]} are both of case {item['case']}: remove one")
            first.setdefault(item["case"], item["image"])
    return faults


def _matches(root: Path, pattern: str) -> Iterator[tuple[str, str, Path]]:
    """Case, site and path of each file that a pattern matches."""
    if "{case}" not in pattern or set(re.findall(r"{(.*?)}", pattern)) - {"case", "site"}:
        raise InputError(
            f"pattern '{pattern}' needs {{case}} (and may have {{site}} and *): e.g. scans/{{case}}_T1.nii.gz"
        )
    glob = re.sub(r"{\w+}", "*", pattern)
    expression, seen = "", set()
    for part in re.split(r"({\w+}|\*)", pattern):
        name = part[1:-1]
        if part == "*":
            expression += "[^/]*"
        elif part in ("{case}", "{site}"):
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
        else:
            expression += re.escape(part)
    found = [(path, re.fullmatch(expression, path.relative_to(root).as_posix())) for path in root.glob(glob)]
    match_of = {path: match for path, match in found if match}
    series = any(is_series(path) for path in match_of)
    # Among folders of DICOM slices, a file is a scan only by its name, and a folder without slices is a fault to tell.
    scans = [path for path in match_of if path.is_dir() == series or path.name.endswith(NIFTI_SUFFIXES)]
    if not scans:
        raise InputError(f"{root} holds no file matching '{pattern}': correct the pattern or the folder")
    for path in sorted(scans, key=_natural):
        yield match_of[path]["case"], match_of[path].groupdict().get("site", ""), path


def _folders(root: Path) -> Iterator[Path]:
    """The folder itself and those below it, to `MAX_DEPTH`, hidden ones passed over."""
    for path, names, _ in os.walk(root):
        folder = Path(path)
        yield folder
        names[:] = sorted(name for name in names if name[0] != ".")
        if len(folder.relative_to(root).parts) >= MAX_DEPTH:
            names.clear()


def _existing_folder(path: str | Path) -> Path:
    path = Path(os.path.abspath(path))
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: correct the path")
    return path


def _natural(path: Path) -> list[str | int]:
    """Sort key that puts case 2 before case 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
