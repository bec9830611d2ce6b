"""Changes of a recipe's values from the command line: `--config translators::cyclegan::train::max_epochs=3`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from crossmoda.errors import InputError

SEPARATOR = "::"  # as in monai.bundle
OVERRIDES = ("train", "translate", "infer")  # entries that hold overrides of a bundle
_EXAMPLE = "translators::cyclegan::train::max_epochs=3"


def read_changes(entries: Sequence[str], option: str = "--config") -> dict[str, Any]:
    """Read KEY=VALUE entries; values are YAML: numbers, lists, null, true.

    Args:
        entries: as typed.
        option: the option's name, for the message.

    Raises:
        InputError: if one is not of this form.
    """
    changes = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{option} {entry}: write KEY=VALUE, e.g. seed=1 or {_EXAMPLE}")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{option} {entry}: the value is not YAML, e.g. 3, [1,2,3], null, true") from None
    return changes


def change(recipe: Mapping[str, Any], changes: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe with other values.

    Args:
        recipe: its entries.
        changes: value by key, levels joined by `::`; the levels below a name (`train`, ...) are made if missing.
        known: entries that a recipe may have.

    Raises:
        InputError: if an entry or a name is unknown, with the nearest one that is known.
    """
    result = _copy(recipe)
    for key, value in changes.items():
        first, *rest = key.split(SEPARATOR)
        if first not in known:
            raise InputError(f"--config {key}: a recipe has no '{first}': {_nearest(first, known)}")
        if not rest:
            result[first] = _copy(value)
            continue
        part = result.get(first)
        if not isinstance(part, dict) or (len(rest) > 1 and rest[0] not in part):
            names = list(part) if isinstance(part, dict) else []
            raise InputError(f"--config {key}: '{first}' of this recipe has no '{rest[0]}': {_nearest(rest[0], names)}")
        # What a bundle is told is named by its own keys, `train: {"network_def::attention": true}`.
        end = next((n + 1 for n, level in enumerate(rest[:-1]) if level in OVERRIDES), len(rest) - 1)
        for level in rest[:end]:
            part = part.setdefault(level, {})
            if not isinstance(part, dict):
                raise InputError(f"--config {key}: '{level}' has no entries of its own")
        part[SEPARATOR.join(rest[end:])] = value
    return result


def merged(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """One nest of dicts on top of another: dicts are merged, everything else is replaced."""
    result = _copy(base)
    for key, value in layer.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else _copy(value)
    return result


def _copy(value: Any) -> Any:
    """A copy in which nothing is shared: what a YAML file names by an anchor becomes independent entries."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'no entries'}"
