"""Ids of a config: which exist, and which one was probably meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY, MACRO_KEY

Config = dict[str, Any]


def walk(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every id of a config with its value: containers before what they hold.

    Args:
        value: a config or a part of it.
        place: its id, `""` for the whole.
    """
    if place:
        yield place, value
    if isinstance(value, dict | list):
        for _, inner, item in ReferenceResolver.iter_subconfigs(place, value):
            yield from walk(item, inner)


def reached(config: Config, roots: Iterable[str]) -> dict[str, Any]:
    """Ids that a workflow uses, with their values: MONAI builds nothing else.

    Overlays serve several workflows, so that each config has parts that it does not use.

    Args:
        config: merged.
        roots: ids that a user or MONAI asks for, e.g. `run`; those that are not there are passed over.
    """
    found: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = ReferenceResolver.normalize_id(waiting.pop())
        if name in found or not has(config, name):
            continue
        for place, value in walk(get(config, name), name):
            found[place] = value
            if isinstance(value, str):
                waiting += ReferenceResolver.match_refs_pattern(ConfigParser.resolve_relative_ids(place, value))
                if value.startswith(MACRO_KEY):
                    path, macro = ConfigParser.split_path_id(value[len(MACRO_KEY) :])
                    waiting += [] if path else [macro]
    return found


def has(config: Config, name: str) -> bool:
    """Whether a config has an id such as `train::handlers::0`."""
    value: Any = config
    for part in ReferenceResolver.split_id(name) if name else []:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
    return True


def get(config: Config, name: str) -> Any:
    """Value of an id, or None."""
    if not has(config, name):
        return None
    value: Any = config
    for part in ReferenceResolver.split_id(name):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def nearest(name: str, known: Collection[str]) -> str:
    """`: did you mean 'x'?` for a misspelt name, or nothing if no known one is like it.

    Args:
        name: an id or any other name.
        known: what it may be; of an id the last part also counts (`lr` for `optimizer::lr`).
    """
    name = ReferenceResolver.normalize_id(name)
    found = [item for item in known if item != name and item.split(ID_SEP_KEY)[-1] == name.split(ID_SEP_KEY)[-1]][:1]
    found = found or get_close_matches(name, known, n=1)
    return f": did you mean '{found[0]}'?" if found else ""
