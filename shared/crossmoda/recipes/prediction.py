"""A finished run of a recipe applied to new scans: all members of what it names as final."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crossmoda.bundle import bundle_root, config_path
from crossmoda.data import SECTIONS, convert_series, input_items, write_datalist
from crossmoda.data.dicom import is_series
from crossmoda.errors import InputError
from crossmoda.fusion import fuse_members
from crossmoda.pipeline import Pipeline
from crossmoda.selftraining.steps import run_bundle

RECIPE_FILE = "recipe.yaml"
SECTION = SECTIONS[2]


def apply_run(run: str | Path, scans: Sequence[str | Path], output_dir: str | Path, progress: bool = True) -> list[str]:
    """Segment raw hrT2 scans as a recipe does: `<case>_seg.nii.gz` in each scan's grid, and `<case>_seg.json`.

    Args:
        run: the output folder of a finished `run_recipe.py`.
        scans: NIfTI files, folders of NIfTI files, or folders with one DICOM series each; a series is converted to
            `<output_dir>/converted/<folder>.nii.gz`, whose grid its label map has.
        output_dir: where to write.
        progress: whether to show bars.

    Returns:
        The cases.

    Raises:
        InputError: if the run is not finished, a scan has a fault, or a prediction fails; one line.
    """
    pipeline = read_run(run)
    output_dir = Path(output_dir).absolute()
    items = _items(scans, output_dir)
    final = pipeline.config["final"]
    with tempfile.TemporaryDirectory(prefix=".members_", dir=output_dir) as folder:
        data_list = Path(folder) / "scans.json"
        write_datalist({SECTION: items}, data_list)
        if final in pipeline.systems:
            _segment(pipeline, final, data_list, output_dir, output_dir)
        elif final in pipeline.self_trainings:
            _segment_by_ensemble(pipeline, final, data_list, output_dir, progress)
        else:
            _fuse(pipeline, final, data_list, Path(folder), output_dir, progress)
    return [item["case"] for item in items]


def read_run(run: str | Path) -> Pipeline:
    """The pipeline of a finished run; it may have been moved as a whole.

    Args:
        run: its folder.

    Raises:
        InputError: if it is none, or its final stage is not there.
    """
    path = Path(run).absolute() / RECIPE_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: give the --output_dir of a finished scripts/run_recipe.py")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not config.get("final"):
        raise InputError(f"{path} names no final system: it is not what scripts/run_recipe.py writes")
    pipeline = Pipeline({**config, "output_dir": str(path.parent)})
    for file in _needed(pipeline, config["final"]):
        if not file.is_file():
            raise InputError(f"{file} is missing: the run is not finished, start scripts/run_recipe.py again")
    return pipeline


def _needed(pipeline: Pipeline, name: str) -> list[Path]:
    if name in pipeline.fusions:
        return [path for member in pipeline.fusions[name]["members"] for path in _needed(pipeline, member)]
    if name in pipeline.self_trainings:
        return [pipeline.folder(name) / "ensemble.json"]
    networks = pipeline.networks(name)
    return [folder / file for folder in networks for file in ("trained", "model/model.pt")]


def _items(scans: Sequence[str | Path], output_dir: Path) -> list[dict[str, Any]]:
    """Validated items of the scans; series become files first."""
    paths = []
    for scan in map(Path, scans):
        if not is_series(scan):
            paths.append(scan)
            continue
        converted = output_dir / "converted" / f"{scan.absolute().resolve().name}.nii.gz"
        if converted in paths:
            raise InputError(f"{scan} and another folder are called {scan.name}: rename one")
        convert_series(scan, converted)
        paths.append(converted)
    items: dict[str, dict[str, Any]] = {}
    for path in paths:
        for item in input_items(path, progress=False):
            if item["case"] in items:
                other = items[item["case"]]["image"]
                raise InputError(f"{item['image']} and {other} are both of case {item['case']}: rename one")
            items[item["case"]] = item
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output_dir} can't be made ({error.strerror}): give another --output_dir") from None
    return list(items.values())


def _segment(pipeline: Pipeline, system: str, data_list: Path, folder: Path, output_dir: Path) -> None:
    """The predictions of one system, all its folds."""
    root = bundle_root(pipeline.systems[system]["bundle"])
    files = [str(config_path(root, name)) for name in ("inference", *pipeline.inference_overlays(system))]
    values = {"data_list": data_list, "section": SECTION, "output_dir": folder, **pipeline.weights(system)}
    values |= pipeline.inference_options(system) | {"progress": False}
    run_bundle(f"segmentation by {system}", files, _plain(values), output_dir / "logs" / f"{system}.log")


def _segment_by_ensemble(pipeline: Pipeline, name: str, data_list: Path, output_dir: Path, progress: bool) -> None:
    root = bundle_root("self-training")
    files = [str(config_path(root, "inference"))]
    values = {"data_list": data_list, "section": SECTION, "output_dir": output_dir, "progress": progress}
    values |= pipeline.ensemble_options(name)
    run_bundle(f"segmentation by {name}", files, _plain(values), output_dir / "logs" / f"{name}.log")


def _fuse(pipeline: Pipeline, name: str, data_list: Path, folder: Path, output_dir: Path, progress: bool) -> None:
    fusion = pipeline.fusions[name]
    members = []
    for system in fusion["members"]:
        members.append(folder / system)
        _segment(pipeline, system, data_list, members[-1], output_dir)
    rules = fusion.get("postprocessing", [])
    fuse_members(members, fusion["rule"], output_dir, rules, data_list, SECTION, progress=progress)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
