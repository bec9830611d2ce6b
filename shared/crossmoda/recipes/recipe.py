"""Recipe files, and what the pipeline makes of one with a preset and the user's data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crossmoda.data import SECTIONS, read_sections
from crossmoda.errors import InputError
from crossmoda.pipeline import ORACLE, PREPARED, SEGMENTATION, SOURCE, TRANSLATION, Pipeline
from crossmoda.recipes.checks import ENTRIES, check
from crossmoda.recipes.settings import change, merged
from crossmoda.recipes.values import check_values

PRESETS_FILE = "presets.yaml"
SOURCE_SECTION, TARGET_SECTION, VALIDATION_SECTION = SECTIONS
SOURCE_ONLY = "source-only"


def recipe_names(folder: Path) -> list[str]:
    """Recipes of a folder: its files that have presets.

    Args:
        folder: of recipe files.
    """
    return sorted(path.stem for path in folder.glob("*.yaml") if "\npresets:" in path.read_text(encoding="utf-8"))


def load_recipe(name: str, folder: Path) -> dict[str, Any]:
    """Read a recipe; one with a `base` is merged on top of that recipe.

    Args:
        name: of a file in the folder, or the path of a YAML file.
        folder: of recipe files.

    Raises:
        InputError: if there is none of this name, it is not a recipe, or its base has a base.
    """
    recipe = _read_recipe(name, folder)
    if "base" not in recipe:
        return recipe
    base = _read_recipe(str(recipe.pop("base")), folder)
    if "base" in base:
        raise InputError(f"{name} has the base '{base['name']}', which has one itself: name that one")
    return merged(base, recipe)


def _read_recipe(name: str, folder: Path) -> dict[str, Any]:
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names(folder))
        raise InputError(f"{name} is no recipe: take one of {known}, or name a YAML file made from one of them")
    recipe = _read_yaml(path)
    if not {"presets", "base"} & set(recipe):
        raise InputError(f"{path} has no 'presets': hand it to snakemake --configfile itself, or start from a recipe")
    unknown = sorted(set(recipe) - {*ENTRIES, "base"})
    if unknown:
        raise InputError(f"{path} has an unknown entry '{unknown[0]}': a recipe has {', '.join(sorted(ENTRIES))}")
    return recipe


def resolve(
    recipe: Mapping[str, Any],
    preset: str,
    presets: Mapping[str, Any],
    output_dir: Path,
    data: Path | None = None,
    truth: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the Snakefile takes: a recipe with a preset and data.

    Args:
        recipe: of `load_recipe`.
        preset: one of the presets.
        presets: what each preset means for all recipes; the recipe's own `presets` come on top.
        output_dir: of the run.
        data: a data list, or a folder with a crossMoDA release or a phantom; None makes the preset's phantom.
        truth: hidden truth of the target scans: a data list if `data` is one, else a folder of labels.
        changes: the user's, see `change`.

    Raises:
        InputError: if the preset or an entry is unknown, entries do not fit together, or the data lacks what the
            recipe needs.
    """
    if preset not in presets:
        raise InputError(f"there is no preset '{preset}': give one of {', '.join(presets)}")
    content = {key: value for key, value in recipe.items() if key != "presets"}
    for layer in (presets[preset], (recipe["presets"] or {}).get(preset)):
        content = merged(content, layer or {})
    content = change({"seed": 0, **content}, changes or {}, ENTRIES)
    content = {key: value for key, value in content.items() if value is not None}
    content["output_dir"] = str(output_dir)
    made = data is None or (data / "truth").is_dir()
    _add_data(content, preset, data, truth)
    _complete_preparation(content)
    check({"views": {}, **content})
    _complete_systems(content, _oracle_is_possible(content))
    check_values(Pipeline(content))
    _complete_report(content, preset, made)
    needs = content.pop("needs", [])
    if "data_list" in content:
        _check_data(Path(content["data_list"]), needs)
    for key in ("overlays", "folds", "bounds"):
        content.pop(key, None)
    return content


def read_presets(folder: Path) -> dict[str, Any]:
    """What each preset means for all recipes, from a folder of recipes."""
    return _read_yaml(folder / PRESETS_FILE)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file ({' '.join(str(error).split())}): correct it") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no entries: start from a recipe")
    return content


def _add_data(content: dict[str, Any], preset: str, data: Path | None, truth: Path | None) -> None:
    if data is None:
        if "phantom" not in content:
            raise InputError(f"preset {preset} needs --data: a data list (make_datalist.py), or a release's folder")
        if truth is not None:
            raise InputError("--truth goes with --data: a phantom that the run makes brings its own")
        return
    content.pop("phantom", None)
    for path, option in ((data, "--data"), (truth, "--truth")):
        if path is not None and not path.exists():
            raise InputError(f"{path} is missing: correct {option}")
    if truth is not None and truth.is_dir() != data.is_dir():
        kind = "a folder with labels, as --data is a folder" if data.is_dir() else "a data list, as --data is one"
        raise InputError(f"--truth {truth}: give {kind}")
    if data.is_dir():
        truth = truth or (data / "truth" if (data / "truth").is_dir() else None)  # of a phantom
        content["data_root"] = str(data)
        content["truth"] = str(truth) if truth else None
        return
    content["data_list"] = str(data)
    if truth is not None:
        content["truth_list"] = str(truth)


def _complete_preparation(content: dict[str, Any]) -> None:
    if "preparation" in content:
        content["preparation"] = {"of": [TRANSLATION, SEGMENTATION], "settings": {}, **content["preparation"]}


def _complete_systems(content: dict[str, Any], oracle: bool | None) -> None:
    """Sizes on top of every method, folds as the preset has them, and the bounds if they can be judged."""
    sizes, limit = content.get("overlays", []), content.get("folds")
    for entry in content["translators"].values():
        entry["overlays"] = [*entry["overlays"], *sizes]
    bounds = content.get("bounds")
    for name, entry in {**content["systems"], **({"bounds": bounds} if isinstance(bounds, dict) else {})}.items():
        own = entry.get("inference_overlays", entry["overlays"])
        entry |= {"overlays": [*entry["overlays"], *sizes], "inference_overlays": [*own, *sizes]}
        entry.setdefault("section", SOURCE_SECTION)
        if limit is not None and entry.get("folds") is not None:
            entry["folds"] = [fold for fold in entry["folds"] if fold in limit]
            if not entry["folds"]:
                raise InputError(f"system '{name}' has none of the folds {limit}: correct folds")
    for entry in content.get("self_training", {}).values():
        entry["overlays"] = [*entry.get("overlays", []), *sizes]
    if "koos" in content:
        content["koos"]["overlays"] = [*content["koos"].get("overlays", []), *sizes]
    if bounds and oracle is not None:
        base = bounds if isinstance(bounds, dict) else content["systems"][bounds]
        folds = {"folds": base["folds"][:1]} if base.get("folds") is not None else {}
        added = {SOURCE_ONLY: {**base, **folds, "images": SOURCE, "section": SOURCE_SECTION}}
        if oracle:
            added[ORACLE] = {**base, **folds, "images": ORACLE, "section": TARGET_SECTION}
        content["systems"] = {**added, **content["systems"]}


def _oracle_is_possible(content: Mapping[str, Any]) -> bool | None:
    """Whether the target training scans have a truth to learn from; None if there is no truth at all."""
    if "truth_list" in content:
        sections = read_sections(content["truth_list"], (TARGET_SECTION, VALIDATION_SECTION))
        unlabelled = [item["case"] for item in sections.get(VALIDATION_SECTION, []) if not item.get("label")]
        if VALIDATION_SECTION not in sections or unlabelled:
            which = unlabelled[0] if unlabelled else f"section {VALIDATION_SECTION}"
            raise InputError(f"{content['truth_list']} has no label of {which}: add it, or leave --truth out")
        items = sections.get(TARGET_SECTION, [])
        return bool(items) and all(item.get("label") for item in items)
    return True if "phantom" in content or content.get("truth") else None


def _complete_report(content: dict[str, Any], preset: str, made: bool) -> None:
    systems = content["systems"]
    bounds = {key: name for key, name in (("source_only", SOURCE_ONLY), ("oracle", ORACLE)) if name in systems}
    title = f"crossmoda: {content['name']}, preset {preset}"
    content["report"] = {"title": title, **content.get("report", {}), **bounds, "focus": content["final"]}
    if not made:
        content["report"].pop("note", None)  # it says that the scans are a phantom
    if "preparation" in content and SEGMENTATION in content["preparation"]["of"]:
        content.setdefault("judging_overlays", [PREPARED])
    else:
        content.setdefault("judging_overlays", [])


def _check_data(data_list: Path, needs: list[str]) -> None:
    sections = read_sections(data_list)
    for name in SECTIONS:
        if name not in sections:
            raise InputError(f"{data_list} has no items in {name}: a recipe needs {', '.join(SECTIONS)}")
    for item in sections[SOURCE_SECTION]:
        for key in ("label", *needs):
            if item.get(key) in (None, ""):
                raise InputError(
                    f"{data_list}: {item['case']} of {SOURCE_SECTION} has no '{key}', which the recipe needs"
                )
