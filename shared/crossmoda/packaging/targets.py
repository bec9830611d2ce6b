"""Components of a config: whether each `_target_` can be found, and takes the arguments that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.utils import EXPR_KEY, ID_REF_KEY

from crossmoda.packaging.ids import nearest


def target_faults(used: Mapping[str, Any]) -> list[str]:
    """Components that cannot be found, or have an unknown or a missing argument; one line each.

    Args:
        used: ids and their values.
    """
    faults = []
    for place, value in used.items():
        if not ConfigComponent.is_instantiable(value):
            continue
        target = value["_target_"]
        if not isinstance(target, str) or target.startswith((EXPR_KEY, ID_REF_KEY)):
            continue
        try:
            component = _locate(target)
        except ErrorDuringImport as error:
            faults.append(f"{place}: {target} cannot be imported ({error.value})")
            continue
        if component is None:
            faults.append(f"{place}: there is no {target}{nearest(target, _neighbours(target))}")
        else:
            faults += [f"{place}: {fault}" for fault in _argument_faults(target, component, value)]
    return faults


def takes(component: Any, argument: str) -> bool:
    """Whether a component's config may have an argument that it does not have yet.

    Args:
        component: a part of a config.
        argument: a name.
    """
    if not ConfigComponent.is_instantiable(component) or not isinstance(component["_target_"], str):
        return False
    if argument in ConfigComponent.non_arg_keys:
        return True
    try:
        parameters = _parameters(_locate(component["_target_"]))
    except ErrorDuringImport:
        return False
    return parameters is None or argument in parameters


@cache
def _components() -> ComponentLocator:
    return ComponentLocator()


def _locate(target: str) -> Any:
    """The class or function; of a short name MONAI's."""
    module = _components().get_component_module_name(target)
    module = module[0] if isinstance(module, list) else module
    return locate(f"{module}.{target}" if module else target)


def _neighbours(target: str) -> list[str]:
    module, _, _ = target.rpartition(".")
    if not module:
        _components().get_component_module_name(target)
        return list(_components()._components_table or ())
    try:
        return [f"{module}.{name}" for name in dir(locate(module)) if not name.startswith("_")]
    except ErrorDuringImport:
        return []


def _parameters(component: Any) -> dict[str, inspect.Parameter] | None:
    """Named parameters; None where they cannot be known (built in, or handed on as `**kwargs`)."""
    try:
        parameters = inspect.signature(component).parameters
    except (TypeError, ValueError):
        return None
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return None
    return {name: item for name, item in parameters.items() if item.kind is not inspect.Parameter.VAR_POSITIONAL}


def _argument_faults(target: str, component: Any, value: dict[str, Any]) -> list[str]:
    parameters = _parameters(component)
    if parameters is None:
        return []
    given = [name for name in value if name not in ConfigComponent.non_arg_keys]
    unknown = [name for name in given if name not in parameters]
    faults = [f"{target} has no argument '{name}'{nearest(name, parameters)}" for name in unknown]
    if value.get("_mode_", "default") == "default":
        missing = [
            name for name, item in parameters.items() if item.default is inspect.Parameter.empty and name not in given
        ]
        faults += [f"{target} needs the argument '{name}'" for name in missing]
    return faults
