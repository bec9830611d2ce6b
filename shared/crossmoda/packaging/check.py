"""The strict check of a bundle that MONAI does not do: a misspelt name is an error, and the error is one line."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS, MERGE_KEY

from crossmoda.bundle import config_path, flatten_config, flatten_metadata
from crossmoda.packaging.expressions import expression_faults, hash_faults, reference_faults
from crossmoda.packaging.ids import Config, get, has, nearest, reached, walk
from crossmoda.packaging.metadata import metadata_faults
from crossmoda.packaging.targets import takes, target_faults
from crossmoda.packaging.workflow import asked_for, property_faults, workflow_type

SUFFIXES = (".yaml", ".json")  # a workflow is YAML here and JSON in a packaged bundle
WORKFLOWS = ("train", "inference", "evaluate")
# Arguments of `monai.bundle run` itself, and ids that every workflow may add
OWN_ARGUMENTS = ("run_id", "init_id", "final_id", "config_file", "meta_file", "logging_file", "tracking", "args_file")
OWN_KEYS = ("initialize", "run", "finalize", "imports", "workflow_type")
FILES = ("LICENSE", "docs/README.md", "configs/metadata.json")


def check_bundle(root: str | Path, overlays: Sequence[str] = ()) -> list[str]:
    """What is wrong with a bundle's files, metadata and its workflows.

    Args:
        root: the bundle's folder.
        overlays: merged on top of the workflows that take them (`takes_overlays`), e.g. `methods/li2021`, or paths of
            files elsewhere; without them all the bundle's workflows are looked at.

    Returns:
        Faults, one line each.
    """
    root = Path(root)
    faults = [f"{name} is missing" for name in FILES if not (root / name).is_file()]
    if not faults:
        own = [name for name in overlays if not _is_elsewhere(name)]
        faults += [f"metadata.json: {fault}" for fault in metadata_faults(read_metadata(root, own))]
    for name in workflows(root):
        if not overlays or takes_overlays(root, name):
            faults += check_config(root, name, overlays)
    return faults


def workflows(root: str | Path) -> list[str]:
    """Names of a bundle's configs that are complete in themselves, and not overlays."""
    files = sorted(path for path in (Path(root) / "configs").iterdir() if path.suffix in SUFFIXES)
    return [
        path.stem
        for path in files
        if path.stem in WORKFLOWS or {"run", "bundle_root"} <= ConfigParser.load_config_file(path).keys()
    ]


def takes_overlays(root: str | Path, name: str) -> bool:
    """Whether a method is merged on top of a workflow: one with a network, or one of every bundle.

    Args:
        root: the bundle's folder.
        name: of `workflows`.
    """
    file = _workflow_file(Path(root), name)
    return name in WORKFLOWS or (file is not None and workflow_type(flatten_config([file])) is not None)


def check_config(
    root: str | Path, name: str, overlays: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """What is wrong with one workflow and what a user puts on top; nothing of it is built or run.

    Checked are keys that no config knows, references, expressions, components and their arguments, the ids and links
    that MONAI requires. Modules that the config names are imported: configs are code.

    Args:
        root: the bundle's folder.
        name: of the workflow: `train`, `inference`, ...
        overlays: merged on top, as `config_path` takes them, or paths of files elsewhere.
        overrides: values by id, as on the command line.

    Returns:
        Faults, one line each.

    Raises:
        InputError: if a file is missing or cannot be merged.
    """
    root = Path(root)
    files = [_workflow_file(root, name) or config_path(root, name), *[overlay_path(root, item) for item in overlays]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = flatten_config(files)
    faults = [str(item.message) for item in caught if "uplicate" in str(item.message)]
    for count, file in enumerate(files[1:], start=1):
        faults += _unknown_keys(root, file, flatten_config(files[:count]))
    unknown = _unknown_overrides(root, config, overrides or {})
    faults += unknown.values()
    given = {key: value for key, value in (overrides or {}).items() if key not in (*unknown, *OWN_ARGUMENTS)}
    config = flatten_config(files, given)
    config["_meta_"] = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    kind = workflow_type(flatten_config(files[:1]))
    used = reached(config, asked_for(kind))
    faults += property_faults(config, kind)
    faults += reference_faults(config, used) + expression_faults(config, used) + target_faults(used) + hash_faults(used)
    return [f"{name}: {fault}" for fault in faults]


def unknown_overrides(
    root: str | Path, name: str, overlays: Sequence[str | Path] = (), overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """Which overrides no config knows, a line each with the nearest known one; a part of `check_config`, and quick.

    Args:
        root: the bundle's folder.
        name: of the workflow.
        overlays: merged on top.
        overrides: values by id.
    """
    if not overrides:
        return []
    root = Path(root)
    config = flatten_config([config_path(root, name), *[overlay_path(root, str(item)) for item in overlays]])
    return list(_unknown_overrides(root, config, overrides).values())


def read_metadata(root: str | Path, overlays: Sequence[str] = ()) -> dict[str, Any]:
    """Metadata of a bundle with overlays."""
    return flatten_metadata(root, overlays)


def overlay_path(root: str | Path, name: str) -> Path:
    """File of an overlay: one of the bundle's by name, or any other by its path.

    Raises:
        InputError: if there is none.
    """
    return Path(name) if _is_elsewhere(name) else config_path(root, name)


def _is_elsewhere(name: str) -> bool:
    return str(name).endswith((".yaml", ".yml", ".json")) and Path(name).is_file()


def _workflow_file(root: Path, name: str) -> Path | None:
    candidates = (root / "configs" / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _tracking_keys(root: Path) -> set[str]:
    settings = root / "configs" / "mlflow.json"
    own = json.loads(settings.read_text(encoding="utf-8"))["configs"] if settings.is_file() else {}
    return {*own, *DEFAULT_MLFLOW_SETTINGS["configs"]}


def _unknown_keys(root: Path, file: Path, before: Config) -> list[str]:
    """Top-level keys of an overlay that no config of the bundle defines or refers to: MONAI would just add them.

    Edits inside (`train::handlers::2::_disabled_`) need no check: merging fails if their place is not there.
    """
    known = {*before, *OWN_KEYS, *_tracking_keys(root)}
    paths = {path.resolve() for path in root.glob("configs/**/*.yaml")} | {file.resolve()}
    for path in paths:
        defined, referred_to = _names_in(path, path.stat().st_mtime_ns)
        known |= referred_to if path == file.resolve() else referred_to | defined
    keys = [_top(key) for key in ConfigParser.load_config_file(file)]
    return [f"{file.name}: no config knows '{key}'{nearest(key, known)}" for key in keys if key not in known]


@cache
def _names_in(path: Path, changed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Top-level ids that a config defines, and those that it refers to; kept until the file has changed."""
    config = ConfigParser.load_config_file(path)
    texts = [value for _, value in walk(config) if isinstance(value, str)]
    references = {name for text in texts for name in ReferenceResolver.match_refs_pattern(text)}
    return frozenset(_top(key) for key in config), frozenset(_top(name) for name in references)


def _top(key: str) -> str:
    return ReferenceResolver.split_id(key.removeprefix(MERGE_KEY))[0]


def _unknown_overrides(root: Path, config: Config, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Overrides that MONAI would silently add, or fail at with a long trace."""
    places = [place for place, _ in walk(config)]
    tracking = _tracking_keys(root)
    faults = {}
    for key in overrides:
        parent, _, last = ReferenceResolver.normalize_id(key).rpartition("::")
        if has(config, key) or key in OWN_ARGUMENTS or key in OWN_KEYS or key in tracking:
            continue
        if not (parent and takes(get(config, parent), last)):
            faults[key] = f"unknown key '{key}'{nearest(key, places)}"
    return faults
