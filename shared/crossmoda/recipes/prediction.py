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
from crossmoda.pipeline import COMBINATION, GEOMETRY, Pipeline
from crossmoda.provenance import checksum
from crossmoda.report import write_case_reports
from crossmoda.selftraining.ensemble import read_ensemble
from crossmoda.selftraining.steps import run_bundle

RECIPE_FILE = "recipe.yaml"
SECTION = SECTIONS[2]
KOOS = "koos-classifier"


def apply_run(run: str | Path, scans: Sequence[str | Path], output_dir: str | Path, progress: bool = True) -> list[str]:
    """Segment raw hrT2 scans as a recipe does, grade them if it grades, and report on each.

    Writes `<case>_seg.nii.gz` in each scan's grid and `<case>_seg.json`; with grades `<case>_koos.json` and
    `grades.csv`; `<case>_report.html` and `<case>_report.pdf`.

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
    with tempfile.TemporaryDirectory(prefix=".members_", dir=output_dir) as temporary:
        folder = Path(temporary)
        data_list = folder / "scans.json"
        write_datalist({SECTION: items}, data_list)
        logs = output_dir / "logs"
        _predict(pipeline, final, data_list, output_dir, folder, logs, progress)
        if pipeline.koos:
            masks = output_dir
            if pipeline.koos["masks"] != final:
                masks = folder / "masks"
                _predict(pipeline, pipeline.koos["masks"], data_list, masks, folder, logs, progress)
            _grade(pipeline, data_list, masks, output_dir, folder, logs)
    sources = {"model": f"recipe {pipeline.config['name']}: {final}", "run": str(pipeline.run)}
    sources |= sources_of(pipeline.weight_files(final), pipeline.data)
    parts = pipeline.divides_tumour(final)
    koos_dir = output_dir if pipeline.koos else None  # not the answers of an earlier run
    write_case_reports(items, output_dir, output_dir, koos_dir, parts, sources, progress)
    return [item["case"] for item in items]


def sources_of(weights: Sequence[str | Path], data_list: str | Path | None = None) -> dict[str, str]:
    """What a case report says of the model: checksums of its weights and of the data list that it was trained on.

    Args:
        weights: checkpoints, or `ensemble.json` files of self-training, of which all networks count.
        data_list: left out if it is None or not there any more.

    Raises:
        InputError: if a file is missing.
    """
    files: list[Path] = []
    for path in map(Path, weights):
        files += [checkpoint for _, checkpoint in read_ensemble(path)[1]] if path.suffix == ".json" else [path]
    if missing := [path for path in files if not path.is_file()]:
        raise InputError(f"{missing[0]} is missing: name the weights that made the labels")
    sources = {"weights": f"{len(files)} networks, sha256 {checksum(files)}"} if files else {}
    if data_list is not None and Path(data_list).is_file():
        sources["training data"] = f"{Path(data_list).name}, sha256 {checksum([data_list])}"
    return sources


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
    for file in [*_needed(pipeline, config["final"]), *_needed_for_grades(pipeline)]:
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


def _needed_for_grades(pipeline: Pipeline) -> list[Path]:
    if not pipeline.koos:
        return []
    network = pipeline.koos_network
    folds = pipeline.koos_fold_folders(network) if network else []
    needed = [folder / file for folder in folds for file in ("trained", "model/model.pt")]
    if pipeline.koos_method in (GEOMETRY, COMBINATION):
        needed.append(_geometry_model(pipeline) / "geometry.json")
    return [*_needed(pipeline, pipeline.koos["masks"]), *needed]


def _geometry_model(pipeline: Pipeline) -> Path:
    return pipeline.koos_folder(GEOMETRY, pipeline.koos_seeds(pipeline.koos_method)[0]) / "model"


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


def _predict(
    pipeline: Pipeline, name: str, data_list: Path, output_dir: Path, folder: Path, logs: Path, progress: bool
) -> None:
    """The label maps of a system, a self-training or a fusion; members' go into subfolders of `folder`."""
    if name not in pipeline.fusions:
        bundle, overlays, options = pipeline.inference(name)
        values = {"data_list": data_list, "section": SECTION, "output_dir": output_dir, "progress": False}
        _run("segmentation", name, bundle, "inference", overlays, options | values, logs)
    else:
        fusion = pipeline.fusions[name]
        for system in fusion["members"]:
            _predict(pipeline, system, data_list, folder / system, folder, logs, progress)
        members, rules = [folder / system for system in fusion["members"]], fusion.get("postprocessing", [])
        fuse_members(members, fusion["rule"], output_dir, rules, data_list, SECTION, progress=progress)


def _grade(pipeline: Pipeline, data_list: Path, masks: Path, output_dir: Path, folder: Path, logs: Path) -> None:
    """Koos grades by the method of the recipe that counts."""
    values = {"data_list": data_list, "section": SECTION, "masks": masks, "progress": False}
    method, network = pipeline.koos_method, pipeline.koos_network
    combined = method == COMBINATION
    graded = {name: folder / name if combined else output_dir for name in ("network", GEOMETRY)}
    if network:
        options = values | {"ckpt_paths": pipeline.koos_weights(network), "output_dir": graded["network"]}
        _run("grading", network, KOOS, "inference", pipeline.koos_overlays(network), options, logs)
    if method in (GEOMETRY, COMBINATION):
        options = values | {"geometry_dir": _geometry_model(pipeline), "output_dir": graded[GEOMETRY]}
        _run("grading", GEOMETRY, KOOS, "geometry", [], options, logs)
    if combined:
        files = {name: path / "grades.csv" for name, path in graded.items()}
        _run("grading", COMBINATION, KOOS, "combine", [], files | {"output_dir": output_dir}, logs)


def _run(
    what: str, name: str, bundle: str, config: str, overlays: Sequence[str], values: dict[str, Any], logs: Path
) -> None:
    root = bundle_root(bundle)
    files = [str(config_path(root, file)) for file in (config, *overlays)]
    run_bundle(f"{what} by {name}", files, _plain(values), logs / f"{name}.log")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
