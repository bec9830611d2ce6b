"""Whether the entries of a recipe fit together: faults are told before the first job, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmoda.bundle import bundle_root, config_path
from crossmoda.errors import InputError
from crossmoda.fusion import RULES
from crossmoda.pipeline import COMBINATION, GEOMETRY, ORACLE, SEGMENTATION, SOURCE, TRANSLATION, Pipeline
from crossmoda.postprocessing import read_rules
from crossmoda.preparation.recipe import recipe_names as preparation_names

TRANSLATOR = ("overlays", "train", "translate", "model", "priority")
SYSTEM = ("bundle", "images", "section", "overlays", "inference_overlays", "train", "infer", "folds")
SELF_TRAINING = ("overlays", "translated", "members", "views", "teachers", "train", "infer", "postprocessing")
KOOS = ("encoder", "masks", "overlays", "folds", "seeds", "networks", GEOMETRY, COMBINATION, "final")
KOOS_NETWORK = ("overlays", "pretrained_by", "seeds")
FUSION = ("members", "rule", "postprocessing")
PREPARATION = ("recipe", "of", "settings")
ENTRIES = (
    *("name", "seed", "phantom", "preparation", "translators", "views", "systems", "self_training", "fusions"),
    *("koos", "final", "bounds", "needs", "report", "judging_overlays", "tracking_uri", "overlays", "folds", "presets"),
)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # names of folders


def check(config: Mapping[str, Any]) -> None:
    """Check a recipe with its preset merged in.

    Args:
        config: its entries, `views` among them.

    Raises:
        InputError: at the first fault.
    """
    for entry in ("name", "translators", "systems", "final"):
        if not config.get(entry):
            raise InputError(f"the recipe has no '{entry}': start from one that has")
    translators, views, systems = config["translators"], config["views"], config["systems"]
    rounds, fusions = config.get("self_training", {}), config.get("fusions", {})
    for names in (translators, views, systems, rounds, fusions):
        for name in names:
            if not NAME.fullmatch(str(name)):
                raise InputError(f"'{name}' can't name a folder: use letters, digits, _ - .")
    _check_unique([*systems, *rounds, *fusions])
    _check_unique([SOURCE, ORACLE, *translators, *views])
    if "preparation" in config:
        _check_preparation(config["preparation"])
    overlays = config.get("overlays", [])
    for name, entry in translators.items():
        _check_translator(name, entry, translators, overlays)
    for name, members in views.items():
        _require(members, [SOURCE, *translators], f"view '{name}'", "translator")
    for name, entry in systems.items():
        _check_system(name, entry, [SOURCE, *translators, *views], overlays)
    for name, entry in rounds.items():
        _check_self_training(name, entry, config, overlays)
    for name, entry in fusions.items():
        _check_fusion(name, entry, systems)
    results = [*systems, *rounds, *fusions]
    _require([config["final"]], results, "final", "system, self-training or fusion")
    if isinstance(config.get("bounds"), Mapping):
        _check_system("bounds", {"images": SOURCE, **config["bounds"]}, [SOURCE], overlays)
    elif config.get("bounds"):
        _require([config["bounds"]], systems, "bounds", "system")
    if "koos" in config:
        _check_koos(config, results)


def _check_preparation(entry: Mapping[str, Any]) -> None:
    _check_entries(entry, PREPARATION, "preparation", required=("recipe",))
    if entry["recipe"] not in preparation_names() and not Path(str(entry["recipe"])).is_file():
        known = ", ".join(preparation_names())
        raise InputError(f"preparation '{entry['recipe']}' is unknown: take one of {known}, or name a YAML file")
    if list(entry["of"]) not in ([TRANSLATION], [TRANSLATION, SEGMENTATION]):
        raise InputError(f"preparation: of is {entry['of']}: give [{TRANSLATION}] or [{TRANSLATION}, {SEGMENTATION}]")


def _check_translator(name: str, entry: Mapping[str, Any], translators: Mapping[str, Any], sizes: Sequence) -> None:
    _check_entries(entry, TRANSLATOR, f"translator '{name}'", required=("overlays",))
    _check_overlays("translation", [*entry["overlays"], *sizes], f"translator '{name}'")
    if "model" in entry:
        _require([entry["model"]], translators, f"translator '{name}': model", "translator")


def _check_system(name: str, entry: Mapping[str, Any], images: Sequence[str], sizes: Sequence) -> None:
    _check_entries(entry, SYSTEM, f"system '{name}'", required=("bundle", "images", "overlays"))
    _require([entry["images"]], images, f"system '{name}': images", "translator or view")
    for overlays in (entry["overlays"], entry.get("inference_overlays", [])):
        _check_overlays(entry["bundle"], [*overlays, *sizes], f"system '{name}'")
    if entry.get("folds") is not None:
        _check_numbers(entry["folds"], f"system '{name}': folds")


def _check_self_training(name: str, entry: Mapping[str, Any], config: Mapping[str, Any], sizes: Sequence) -> None:
    label = f"self-training '{name}'"
    _check_entries(entry, SELF_TRAINING, label, required=("translated",))
    _check_overlays("self-training", [*entry.get("overlays", []), *sizes], label)
    _require(entry["translated"], config["translators"], f"{label}: translated", "translator")
    _require(entry.get("members", []), config["systems"], f"{label}: members", "system")
    _require(entry.get("teachers", {}).values(), config["systems"], f"{label}: teachers", "system")
    views = entry.get("views", [])
    if not (isinstance(views, list) and all(isinstance(view, Mapping) for view in views)):
        raise InputError(f"{label}: views is {views}: give a list of settings, e.g. [{{mirror_axes: []}}]")
    if views and not entry.get("members"):
        raise InputError(f"{label} has views but no members of its own: set views in its overlay, or under train")
    read_rules(entry.get("postprocessing", []))


def _check_fusion(name: str, entry: Mapping[str, Any], systems: Mapping[str, Any]) -> None:
    _check_entries(entry, FUSION, f"fusion '{name}'", required=("members", "rule"))
    _require(entry["members"], systems, f"fusion '{name}'", "system")
    if entry["rule"] not in RULES:
        raise InputError(f"fusion '{name}': there is no rule '{entry['rule']}': take one of {', '.join(RULES)}")
    read_rules(entry.get("postprocessing", []))


def _check_koos(config: Mapping[str, Any], results: Sequence[str]) -> None:
    koos, pipeline = config["koos"], Pipeline({"output_dir": "", **config})
    _check_entries(koos, KOOS, "koos", required=("encoder", "masks"))
    _require([koos["encoder"]], config["translators"], "koos: encoder", "translator")
    _require([koos["masks"]], results, "koos: masks", "system, self-training or fusion")
    if pipeline.divides_tumour(koos["masks"]):
        raise InputError(f"koos: masks '{koos['masks']}' divide the tumour: name a result whose label 1 is all of it")
    networks = pipeline.koos_networks
    for name, entry in networks.items():
        _check_entries(entry, KOOS_NETWORK, f"koos: network '{name}'")
        _require([entry["pretrained_by"]] if entry.get("pretrained_by") else [], networks, f"koos: {name}", "network")
        _check_overlays("koos-classifier", pipeline.koos_overlays(name), f"koos: network '{name}'")
    if COMBINATION in koos:
        _require([koos[COMBINATION]], networks, "koos: combination", "network")
        if GEOMETRY not in koos:
            raise InputError("koos: combination needs the baseline: add 'geometry: {}'")
    _require([pipeline.koos_method], pipeline.koos_methods, "koos: final", "method")
    for name in pipeline.koos_methods:
        _check_numbers(pipeline.koos_seeds(name), f"koos: seeds of '{name}'")
    if not isinstance(koos.get("folds", 5), int) or koos.get("folds", 5) < 2:
        raise InputError(f"koos: folds is {koos['folds']}: give their number, 2 or more")


def _check_numbers(values: Any, label: str) -> None:
    if not (isinstance(values, list) and values and all(isinstance(value, int) for value in values)):
        raise InputError(f"{label} is {values}: give a list of numbers, e.g. [0, 1, 2]")


def _check_entries(entry: Any, known: Sequence[str], label: str, required: Sequence[str] = ()) -> None:
    if not isinstance(entry, Mapping):
        raise InputError(f"{label} is no list of entries: it has {', '.join(known)}")
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise InputError(f"{label} has an unknown entry '{unknown[0]}': it has {', '.join(known)}")
    missing = [key for key in required if key not in entry]
    if missing:
        raise InputError(f"{label} has no '{missing[0]}': add it")


def _check_overlays(bundle: str, overlays: Sequence[str], label: str) -> None:
    try:
        root = bundle_root(str(bundle))
        for name in overlays:
            config_path(root, str(name))
    except InputError as error:
        raise InputError(f"{label}: {error}") from None


def _require(names: Iterable[str], known: Iterable[str], label: str, kind: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise InputError(f"{label} names '{name}', which is no {kind} of the recipe: it has {', '.join(known)}")


def _check_unique(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the name '{name}' is taken twice: rename a translator, view, system or fusion")
