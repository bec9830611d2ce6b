"""Preparation of one case: its transforms, the prepared files, and the sidecar that says how to go back."""

from __future__ import annotations

import errno
import hashlib
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from crossmoda.data import convert_series, item_faults, read_header, save_nifti, write_text
from crossmoda.errors import InputError
from crossmoda.preparation.recipe import FILES, KEYS, Recipe, root_cause
from crossmoda.provenance import versions

VERSION = 1  # a new one makes all cases anew
SUFFIXES = {"label": "Label", "parcellation": "GIFoutput"}
LOST = 0.01  # share of a label's volume outside the crop from which on a warning is given
GO_BACK = (
    "scan_from_prepared maps mm of the prepared file to mm of the scan (both RAS); scripts/restore.py takes a volume on"
    " the prepared grid back to the scan's grid"
)

Item = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One case to prepare.

    Attributes:
        item: datalist item with absolute paths.
        section: its section.
        recipe: the recipe, complete with what was learned.
        folder: folder of all prepared data.
        allowed_labels: class numbers that the label may hold.
    """

    item: Item
    section: str
    recipe: Recipe
    folder: Path
    allowed_labels: tuple[int, ...]

    @property
    def modality(self) -> str:
        """The section's modality."""
        return "ceT1" if self.section.startswith("source") else "hrT2"

    @property
    def keys(self) -> list[str]:
        """Which files the case has."""
        return [key for key in KEYS if self.item.get(key)]

    @property
    def registrations(self) -> Path:
        """Where found registrations of the section are kept."""
        return self.folder / "registrations" / self.section

    @property
    def files(self) -> dict[str, Path]:
        """Prepared files by key, and the `sidecar`."""
        suffixes = {"image": self.modality, **SUFFIXES}
        base = self.folder / self.section
        files = {key: base / f"{self.item['case']}_{suffixes[key]}.nii.gz" for key in self.keys}
        return {**files, "sidecar": base / f"{self.item['case']}_{self.modality}.json"}


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its name.
        section: its section.
        status: `done`, `unchanged` or `faulty`.
        item: the new datalist item; None if faulty.
        faults: one line each.
        warnings: one line each.
        seconds: wall time.
        details: a traceback, if the fault is not the input's.
    """

    case: str
    section: str
    status: str
    item: Item | None = None
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    details: str | None = None


def prepare_case(task: Task) -> Outcome:
    """Prepare one case unless that is done and nothing has changed; never raises for what is wrong with one case."""
    start = time.monotonic()
    name = {"case": task.item["case"], "section": task.section}
    try:
        warnings = _unchanged(task)
        status = "unchanged" if warnings is not None else "done"
        if warnings is None:
            _forget(task)
            warnings = _prepare(task)
        return Outcome(**name, status=status, item=_new_item(task), warnings=warnings, seconds=_since(start))
    except Exception as error:
        faults, details = explain(error, task)
        return Outcome(**name, status="faulty", faults=faults, details=details, seconds=_since(start))


def load_checked(task: Task) -> Item:
    """The case's files, checked whole; a DICOM series is converted to NIfTI under the folder of prepared data.

    Raises:
        InputError: with all faults of the case.
    """
    item = {"case": task.item["case"], **{key: task.item[key] for key in task.keys}}
    if Path(item["image"]).is_dir():
        converted = task.folder / "converted" / f"{item['case']}_{task.modality}.nii.gz"
        convert_series(item["image"], converted)
        item["image"] = str(converted)
    # An unlabelled source scan may be prepared; an empty label there is a mistake, in the target it may be the truth.
    require_label = task.section.startswith("source") and "label" in item
    faults = item_faults(item, require_label, "full", task.allowed_labels)
    if faults:
        raise CaseError(faults)
    return item


class CaseError(InputError):
    """All faults of one case."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults[0])
        self.faults = faults


def explain(error: Exception, task: Task) -> tuple[list[str], str | None]:
    """The lines that tell a user what is wrong, and a traceback if that is not known."""
    cause = root_cause(error)
    if isinstance(cause, CaseError):
        return cause.faults, None
    if isinstance(cause, InputError):
        return [str(cause)], None
    if isinstance(cause, MemoryError):
        return [f"{task.item['image']} needs more memory than there is: use fewer --jobs"], None
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return [f"{task.folder} is full ({cause.strerror}): make room and run again"], None
    if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return [f"{cause.filename or task.folder} may not be read or written: change its permissions"], None
    line = " ".join(f"{task.item['image']} could not be prepared ({type(cause).__name__}: {cause})".split())
    return [f"{line}: the report has the details"], "".join(traceback.format_exception(error))


def task_hash(task: Task) -> str:
    """Hash of all that the prepared files depend on: contents of the inputs, recipe, learned files, code version."""
    digest = hashlib.sha256()
    config = dict(task.recipe.config)
    for key in FILES:
        if config.get(key):
            config[key] = file_hash(config[key])
    facts = {"version": VERSION, "config": config, "section": task.section, "keys": task.keys}
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for key in task.keys:
        digest.update(file_hash(task.item[key]).encode())
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder (a DICOM series)."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(part for part in path.iterdir() if part.is_file()):
        digest.update(f"{part.name} {file_hash(part)} ".encode())
    return digest.hexdigest()


def _unchanged(task: Task) -> list[str] | None:
    """The warnings of an earlier run whose result still holds; None if there is none."""
    sidecar = task.files["sidecar"]
    if not all(path.is_file() for path in task.files.values()):
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        return content["warnings"] if content["hash"] == task_hash(task) else None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, FileNotFoundError):
        return None


def _forget(task: Task) -> None:
    """Remove the results of an earlier run, the sidecar first, so that no old file passes for a new one."""
    for path in reversed(task.files.values()):
        path.unlink(missing_ok=True)


def _prepare(task: Task) -> list[str]:
    start = time.monotonic()
    item = load_checked(task)
    data = task.recipe.pipeline(task.modality, task.section, task.keys, task.registrations)(dict(item))
    arrays = {key: _as_array(data[key], key) for key in task.keys}
    if not np.isfinite(arrays["image"]).all() or np.ptp(arrays["image"]) == 0:
        raise InputError(f"{item['image']} has no signal in the region that {task.recipe.name} keeps: look at the scan")
    affine = data["image"].affine.numpy().astype(np.float64)
    record = data.get("registration")
    warnings = _warnings(task, item, arrays, affine, record)
    for key, array in arrays.items():
        save_nifti(array, affine, task.files[key])
    sidecar = _sidecar(task, item, arrays["image"], affine, record)
    sidecar |= {"warnings": warnings, "seconds": round(_since(start), 2)}
    write_text(json.dumps(sidecar, indent=1) + "\n", task.files["sidecar"])  # last: it says that all is there
    return warnings


def _as_array(tensor: MetaTensor, key: str) -> np.ndarray:
    array = tensor[0].detach().cpu().numpy()
    if key == "image":
        return array.astype(np.float32)
    return np.rint(array).astype(np.uint8 if array.max() < 256 else np.uint16)


def _sidecar(
    task: Task, item: Item, image: np.ndarray, affine: np.ndarray, record: Mapping[str, Any] | None
) -> dict[str, Any]:
    scan = read_header(item["image"])
    to_template = np.asarray(record["matrix"], dtype=float) if record else np.eye(4)
    return {
        "case": item["case"],
        "section": task.section,
        "site": task.item.get("site", ""),
        "modality": task.modality,
        "recipe": task.recipe.name,
        "settings": task.recipe.settings,
        "scan": {
            "file": item["image"],
            "shape": scan.shape,
            "spacing": np.round(scan.spacing, 6).tolist(),
            "affine": scan.affine.tolist(),
            "orientation": "".join(nib.aff2axcodes(scan.affine)),
        },
        "prepared": {
            "files": {key: path.name for key, path in task.files.items() if key != "sidecar"},
            "shape": image.shape,
            "spacing": np.round(np.linalg.norm(affine[:3, :3], axis=0), 6).tolist(),
            "affine": affine.tolist(),
            "range": task.recipe.range,
        },
        "registration": record,
        "scan_from_prepared": np.linalg.inv(to_template).tolist(),
        "how_to_go_back": GO_BACK,
        "hash": task_hash(task),
        "versions": versions(),
    }


def _warnings(
    task: Task, item: Item, arrays: Mapping[str, np.ndarray], affine: np.ndarray, record: Mapping[str, Any] | None
) -> list[str]:
    warnings = []
    if record and record.get("failure"):
        warnings.append(f"registration failed ({record['failure']}): the scan was left where it is")
    if "label" in arrays:
        before = nib.load(item["label"])
        volumes = _volumes(np.asanyarray(before.dataobj), before.affine)
        kept = _volumes(arrays["label"], affine)
        for value, volume in volumes.items():
            # An affine registration scales volumes by a few percent; what is looked for is a label that was cut off.
            lost = 1 - kept.get(value, 0.0) / volume
            if lost > LOST and _touches_border(arrays["label"] == value):
                warnings.append(f"about {lost:.0%} of label {value} lies outside the prepared volume")
            elif value not in kept:
                warnings.append(f"label {value} lies outside the prepared volume")
    return warnings


def _volumes(label: np.ndarray, affine: np.ndarray) -> dict[int, float]:
    """Volume of each class in mm3."""
    values, counts = np.unique(label[label > 0], return_counts=True)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    return {int(value): float(count * voxel) for value, count in zip(values, counts, strict=True)}


def _touches_border(mask: np.ndarray) -> bool:
    return any(np.take(mask, place, axis).any() for axis in range(3) for place in (0, -1))


def _new_item(task: Task) -> Item:
    files = {key: str(task.files[key]) for key in task.keys}
    return {**task.item, **files}


def _since(start: float) -> float:
    return time.monotonic() - start
