"""What a recipe learns from the data before it can prepare them: Li's region of interest, Han's references."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import save_nifti, write_text
from crossmoda.errors import InputError
from crossmoda.preparation.case import Item, Task, file_hash, load_checked, task_hash
from crossmoda.preparation.recipe import LEARNED, Recipe
from crossmoda.preparation.workers import Mapper
from crossmoda.registration.template import template_affine

MakeTask = Callable[[Item, str, Recipe], Task]


def learn(
    recipe: Recipe, sections: Mapping[str, Sequence[Item]], make_task: MakeTask, folder: Path, run: Mapper
) -> tuple[Recipe, list[str]]:
    """Complete a recipe with what it learns from the data.

    Args:
        recipe: a recipe; one that lacks nothing is handed back.
        sections: the data list's items.
        make_task: makes the task of an item.
        folder: folder of all prepared data.
        run: maps a function over tasks, in parallel.

    Returns:
        The recipe, complete, and lines on what was chosen that a user should know.

    Raises:
        InputError: if the data don't have what is to be learned from.
    """
    if recipe.lacks == "roi":
        return _learn_roi(recipe, sections, make_task, run)
    if recipe.lacks == "references":
        return _learn_references(recipe, sections, make_task, folder)
    return recipe, []


def _learn_roi(
    recipe: Recipe, sections: Mapping[str, Sequence[Item]], make_task: MakeTask, run: Mapper
) -> tuple[Recipe, list[str]]:
    """The union of all source labels' boxes on the template grid, grown evenly to the size wanted (Li 2021, 3.3)."""
    items = [item for item in sections.get("source_training", ()) if item.get("label")]
    tasks = [make_task(item, "source_training", recipe) for item in items]
    boxes = [box for box in run(label_box, tasks, "learning the region of interest") if box is not None]
    if not boxes:
        raise InputError(
            f"recipe {recipe.name} takes its region of interest from the labels of source_training, and none of them"
            " can be used: give labels, --like an earlier preparation, or --set roi_start=[x,y,z]"
        )
    low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
    size, shape = np.asarray(recipe.config["roi_size"]), np.asarray(recipe.config["template_shape"])
    start = np.clip(np.rint((low + high) / 2 - size / 2), 0, np.maximum(shape - size, 0)).astype(int)
    notes = [f"region of interest: {size.tolist()} voxels from {start.tolist()}, learned from {len(boxes)} labels"]
    if (low < start).any() or (high > start + size).any():
        notes.append(
            f"warning: the labels' common box {low.tolist()} to {high.tolist()} is larger than the region of interest:"
            " some labels are cut off, or a registration failed; look at the report"
        )
    return recipe.changed({"roi_start": start.tolist()}), notes


def label_box(task: Task) -> tuple[list[int], list[int]] | None:
    """First and one past the last voxel, on the template grid, of a case's label; None if the case can't be used.

    What is wrong with such a case is reported when it is prepared.
    """
    path = task.registrations / f"{task.item['case']}_box.json"
    try:
        key = task_hash(task)
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("hash") == key:
                return content["box"]
        box = _label_box(task)
        write_text(json.dumps({"hash": key, "box": box}), path)
        return box
    except Exception:  # any fault of one case: preparing it will name it
        return None


def _label_box(task: Task) -> tuple[list[int], list[int]] | None:
    pipeline = task.recipe.pipeline(
        task.modality, task.section, ["image", "label"], task.registrations, part="alignment"
    )
    item = load_checked(task)
    data = pipeline({key: item[key] for key in ("case", "image", "label")})
    record = data.get("registration")
    if record and record.get("failure"):
        return None
    label = data["label"][0].numpy()
    voxels = np.argwhere(label > 0)
    if not len(voxels):
        return None
    config = task.recipe.config
    grid = template_affine(config["template_shape"], config["template_spacing"])
    to_grid = np.linalg.inv(grid) @ data["label"].affine.numpy()
    places = voxels @ to_grid[:3, :3].T + to_grid[:3, 3]
    return np.floor(places.min(0)).astype(int).tolist(), (np.ceil(places.max(0)).astype(int) + 1).tolist()


def _learn_references(
    recipe: Recipe, sections: Mapping[str, Sequence[Item]], make_task: MakeTask, folder: Path
) -> tuple[Recipe, list[str]]:
    """Write the scans that histograms are matched to, and the matched one that scans are aligned with."""
    notes = []
    for name, part in zip(LEARNED["references"], ("reference", "reference", "matched_reference"), strict=True):
        modality = "ceT1" if name.endswith("ceT1") else "hrT2"
        wanted = recipe.config[f"{name}_case"]
        path = folder / "references" / f"{name}.nii.gz"
        faults = []
        for section, item in _candidates(sections, modality, wanted):
            try:
                _write_reference(make_task(item, section, recipe), part, path)
            except (InputError, FileNotFoundError) as error:  # preparing that case will report it too
                faults.append(f"{name}: {item['case']} cannot serve: {error}")
                continue
            if item["case"] != wanted:
                why = "cannot serve" if any(f"{name}: {wanted} " in fault for fault in faults) else "is not in the list"
                notes.append(f"{name}: {wanted} {why}, {item['case']} serves instead")
            break
        else:
            raise InputError(faults[0] if len(faults) == 1 else f"{faults[0]}; nor can the {len(faults) - 1} others")
        notes += faults
        recipe = recipe.changed({name: str(path.absolute())})
    return recipe, notes


def _candidates(sections: Mapping[str, Sequence[Item]], modality: str, wanted: str) -> list[tuple[str, Item]]:
    """The scans of a modality, the wanted case first, the others in the list's order."""
    found = [
        (section, item)
        for section, items in sections.items()
        for item in items
        if section.startswith("source") == (modality == "ceT1")
    ]
    if not found:
        raise InputError(f"the data list has no {modality} scan to take as reference: add one, or --like DIR")
    return sorted(found, key=lambda candidate: candidate[1]["case"] != wanted)


def _write_reference(task: Task, part: str, path: Path) -> None:
    record = path.with_suffix("").with_suffix(".json")
    key = f"{task_hash(task)} {part}"
    if path.is_file() and record.is_file():
        content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if content.get("hash") == key and content.get("file") == file_hash(path):
            return
    item = load_checked(task)
    data = task.recipe.pipeline(task.modality, task.section, ["image"], part=part)({"image": item["image"]})
    save_nifti(data["image"][0].numpy().astype(np.float32), data["image"].affine.numpy(), path)
    content = {"hash": key, "case": item["case"], "scan": item["image"], "file": file_hash(path)}
    write_text(json.dumps(content, indent=1) + "\n", record)
