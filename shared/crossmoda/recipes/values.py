"""Whether the values that a recipe sets for its bundles are known there: MONAI adds a misspelt key without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from crossmoda.bundle import bundle_root, config_path
from crossmoda.errors import InputError
from crossmoda.packaging import unknown_overrides
from crossmoda.pipeline import Pipeline
from crossmoda.selftraining.members import Member

SEGMENTERS = ("segmentation-2.5d", "segmentation-3d")
OPTIONS = {"train_options": "train", "infer_options": "inference"}  # of a self-training's members
SIZES = ("phantom", "prepared", "preparation")  # overlays of every segmentation bundle
Values = Mapping[str, Any]


def check_values(pipeline: Pipeline) -> None:
    """Check the names of all values of a recipe's translators, systems, rounds and grades.

    Args:
        pipeline: of the complete recipe.

    Raises:
        InputError: at the first unknown one, with the nearest known one.
    """
    for label, bundle, workflow, overlays, values in _runs(pipeline):
        if faults := unknown_overrides(bundle_root(bundle), workflow, overlays, values):
            raise InputError(f"{label}: {faults[0]}")
    for name, entry in pipeline.self_trainings.items():
        label = f"self-training '{name}'"
        values = {**entry.get("train", {}), **entry.get("infer", {})}
        for option, workflow in OPTIONS.items():
            _check_members(f"{label}: {option}", workflow, _below(option, values))
        for key, value in values.items():
            if key.startswith("members::"):
                _check_member(label, key, value)
        for view in entry.get("views", ()):
            _check_members(f"{label}: views", "inference", view)


def _runs(pipeline: Pipeline) -> Iterator[tuple[str, str, str, Sequence[str], Values]]:
    for name, entry in pipeline.translators.items():
        overlays = pipeline.translator_overlays(name)
        yield f"translator '{name}': train", "translation", "train", overlays, entry.get("train", {})
        overlays = pipeline.translation(name)[1]
        yield f"translator '{name}': translate", "translation", "inference", overlays, entry.get("translate", {})
    for name, entry in pipeline.systems.items():
        label, bundle = f"system '{name}'", entry["bundle"]
        yield f"{label}: train", bundle, "train", pipeline.training_overlays(name), entry.get("train", {})
        yield f"{label}: infer", bundle, "inference", pipeline.inference_overlays(name), entry.get("infer", {})
    for name, entry in pipeline.self_trainings.items():
        label, overlays = f"self-training '{name}'", entry.get("overlays", [])
        yield f"{label}: train", "self-training", "train", overlays, _own(entry.get("train", {}))
        yield f"{label}: infer", "self-training", "inference", [], _own(entry.get("infer", {}))
    if pipeline.koos.get("geometry"):
        yield "koos: geometry", "koos-classifier", "geometry_train", [], pipeline.koos["geometry"]


def _own(values: Values) -> Values:
    others = ("members::", *(f"{name}::" for name in OPTIONS))
    return {key: value for key, value in values.items() if not key.startswith(others)}


def _below(option: str, values: Values) -> Values:
    """The options that are given together (`train_options: {...}`) and one by one (`train_options::max_epochs`)."""
    start = f"{option}::"
    single = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
    return {**(values.get(option) or {}), **single}


def _check_member(label: str, key: str, value: Any) -> None:
    """`members::NAME::FIELD` or `members::NAME::train::KEY`; whether there is such a member the rounds tell."""
    _, name, *rest = key.split("::")
    known = [field.name for field in fields(Member)]
    if not rest:
        return
    if rest[0] not in known:
        raise InputError(f"{label}: unknown key '{key}': a member has {', '.join(known)}")
    if rest[0] in ("train", "infer"):
        values = {"::".join(rest[1:]): value} if rest[1:] else value
        _check_members(f"{label}: {name}", {"train": "train", "infer": "inference"}[rest[0]], values)


def _check_members(label: str, workflow: str, values: Values) -> None:
    """Options of the members' trainings or predictions: known to a segmentation bundle, a method, or to students."""
    student = [config_path(bundle_root("self-training"), "student")] if workflow == "train" else []
    for key, value in values.items():
        faults = []
        for root, overlays in _methods():
            faults += unknown_overrides(root, workflow, [*overlays, *student], {key: value}) or [""]
            if not faults[-1]:
                break
        else:
            raise InputError(f"{label}: {max(faults, key=len)}")  # one that names a near key, if any does


def _methods() -> Iterator[tuple[Path, list[str]]]:
    roots = [Path(bundle_root(name)) for name in SEGMENTERS]
    yield from ((root, []) for root in roots)
    for root in roots:
        yield from ((root, [name]) for name in SIZES if (root / "configs" / f"{name}.yaml").is_file())
        yield from ((root, [f"methods/{path.stem}"]) for path in sorted((root / "configs" / "methods").glob("*.yaml")))
