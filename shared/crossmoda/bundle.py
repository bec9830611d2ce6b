"""The folder of a bundle, found from any working directory, and its configs merged into one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv
from yaml import YAMLError

from crossmoda.errors import InputError


def bundle_root(name: str) -> str:
    """Absolute path of the bundle folder called `name`.

    Looked for, in this order: the working directory itself (a bundle copied elsewhere), `$CROSSMODA_BUNDLES/name`,
    and `bundles/name` of the checkout that this package was installed from (`pip install --editable shared`).

    Args:
        name: the bundle's folder name, e.g. `segmentation-2.5d`.

    Raises:
        InputError: if no such folder has `configs/metadata.json`; `--bundle_root DIR` overrides the search.
    """
    candidates = [Path.cwd()] if Path.cwd().name == name else []
    if "CROSSMODA_BUNDLES" in os.environ:
        candidates.append(Path(os.environ["CROSSMODA_BUNDLES"]) / name)
    candidates.append(Path(__file__).resolve().parents[2] / "bundles" / name)
    for candidate in candidates:
        if (candidate / "configs" / "metadata.json").is_file():
            return str(candidate.resolve())
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise InputError(f"bundle '{name}' not found in {tried}: give --bundle_root, or set CROSSMODA_BUNDLES")


def config_path(root: str | Path, name: str) -> Path:
    """File of a config of a bundle.

    Args:
        root: the bundle's folder.
        name: its path below `configs`, with or without `.yaml`: `inference`, `phantom`, `methods/li2021.yaml`; for a
            method the bare name does too: `li2021`.

    Raises:
        InputError: if there is none, or if the name leads out of `configs`.
    """
    configs = (Path(root) / "configs").resolve()
    plain = name.removesuffix(".yaml")
    for candidate in (configs / f"{plain}.yaml", configs / "methods" / f"{plain}.yaml"):
        if candidate.resolve().is_relative_to(configs) and candidate.is_file():
            return candidate
    known = sorted(str(path.relative_to(configs).with_suffix("")) for path in configs.glob("**/*.yaml"))
    raise InputError(f"{root} has no config '{name}': give one of {', '.join(known)}")


def flatten_config(config_files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One config in place of several that are merged in order, as `monai.bundle run --config_file "[...]"` merges them.

    MONAI Label, `monai.bundle.load` and the model zoo read exactly one file. References and expressions stay as they
    are written, so that later overrides act on the result as on the files.

    Args:
        config_files: the most general one first: the workflow, a method, sizes.
        overrides: values by id, e.g. `{"threads": 1, "network_def::channels": [4, 4]}`, as on the command line.

    Returns:
        What JSON can hold, without `+` and `::` in its keys; a dict whose keys are numbers is an expression.

    Raises:
        InputError: if a file is missing or damaged, changes a place that is not there, or holds what JSON cannot.
    """
    parser = ConfigParser(config={})
    names = ", ".join(str(file) for file in config_files)
    for file in config_files:
        try:
            for key, value in ConfigParser.load_config_file(file).items():
                merge_kv(parser, key, value)
        except FileNotFoundError:
            raise InputError(f"{file} is missing") from None
        except (KeyError, IndexError) as error:
            raise InputError(f"{file} changes a place that the files before it do not have: {_brief(error)}") from None
        except (ValueError, TypeError, AttributeError, YAMLError) as error:
            raise InputError(f"{file} is not a config: {_brief(error)}") from None
    for key, value in (overrides or {}).items():
        try:
            parser[key] = value
        except (KeyError, IndexError, ValueError, TypeError):
            raise InputError(f"'{key}' is not in {names}") from None
    return _as_json(parser.get(), names)


def flatten_metadata(root: str | Path, overlays: Sequence[str]) -> dict[str, Any]:
    """Metadata of a bundle with overlays: `metadata.json`, and what a `<overlay>_metadata.json` has in its place.

    Args:
        root: the bundle's folder.
        overlays: names of configs, as `config_path` takes them, in order.

    Raises:
        InputError: if an overlay or the metadata is missing.
    """
    paths = [config_path(root, name) for name in overlays]
    own = [path.with_name(f"{path.stem}_metadata.json") for path in paths]
    return flatten_config([Path(root) / "configs" / "metadata.json", *(path for path in own if path.is_file())])


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _as_json(value: Any, files: str) -> Any:
    """A copy that JSON keeps: a dict with numbers as keys becomes an expression (JSON would make its keys text)."""
    if isinstance(value, list):
        return [_as_json(item, files) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as_json(item, files) for key, item in value.items()}
    if isinstance(value, dict) and re.fullmatch(r"[-\w\s{}\[\],.:]*", repr(value)):  # neither text nor references
        return f"${value!r}"
    if not isinstance(value, str | int | float | None):
        raise InputError(f"{files}: JSON cannot hold {value!r}; write it as text or as an expression")
    return value
