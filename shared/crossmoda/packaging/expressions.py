"""References and expressions of a config, read without running them."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Mapping
from copy import deepcopy
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from types import ModuleType
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.config_item import ConfigExpression
from monai.bundle.utils import MACRO_KEY

from crossmoda.packaging.ids import Config, has, nearest, walk

# The name that stands for any reference in an expression while it is read.
REFERENCE = "_reference_"


def reference_faults(config: Config, used: Mapping[str, Any]) -> list[str]:
    """References (`@id`) and macros (`%id`) to what is not there, and references in a circle; one line each.

    Args:
        config: merged.
        used: the ids that are looked at, with their values.
    """
    known = [place for place, _ in walk(config)]
    faults = []
    for place, value in used.items():
        if not isinstance(value, str):
            continue
        value = ConfigParser.resolve_relative_ids(place, value)
        if value.startswith(MACRO_KEY):
            faults += _macro_faults(place, value, config)
        for name in ReferenceResolver.match_refs_pattern(value):
            if not has(config, name):
                faults.append(f"{place}: '@{name}' does not exist{nearest(name, known)}")
    return faults or _circles(config, used)


def _macro_faults(place: str, value: str, config: Config) -> list[str]:
    path, name = ConfigParser.split_path_id(value[len(MACRO_KEY) :])
    try:
        there = has(ConfigParser.load_config_file(path) if path else config, name)
    except (OSError, ValueError):
        return [f"{place}: the file of '{value}' cannot be read (its path is taken from the working directory)"]
    return [] if there else [f"{place}: '{value}' does not exist"]


def _circles(config: Config, used: Mapping[str, Any]) -> list[str]:
    """The first circle, which MONAI would find when it builds the objects."""
    parser = ConfigParser(deepcopy(config))
    parser.parse()
    graph = {
        place: list(ReferenceResolver.find_refs_in_config(item.get_config(), place))
        for place, item in parser.ref_resolver.items.items()
        if place in used
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"references go in a circle: {' -> '.join(reversed(error.args[1]))}"]
    return []


def expression_faults(config: Config, used: Mapping[str, Any]) -> list[str]:
    """Expressions that are not Python, imports that fail, and names that nothing defines; one line each.

    Args:
        config: merged. The modules that it imports are imported.
        used: the ids that are looked at, with their values.
    """
    imports = {place: value for place, value in walk(config) if _is_import(value)}
    expressions = imports | {place: value for place, value in used.items() if ConfigExpression.is_expression(value)}
    faults, trees, names = [], {}, {}
    for place, value in expressions.items():
        if "import" in value and "@" in value:
            faults.append(f"{place}: MONAI cannot read an expression with both 'import' and a reference: '{value}'")
            continue
        text = ReferenceResolver.id_matcher.sub(REFERENCE, ReferenceResolver.normalize_id(value)[1:])
        try:
            tree = ast.parse(text.strip())
        except SyntaxError as error:
            faults.append(f"{place}: '{value}' is not Python ({error.msg})")
            continue
        statement = tree.body[0] if tree.body else None
        if isinstance(statement, ast.Import | ast.ImportFrom):
            fault = _import(statement, names)
            faults += [f"{place}: {fault}"] if fault else []
        elif len(tree.body) != 1 or not isinstance(statement, ast.Expr):
            faults.append(f"{place}: '{value}' is not one expression")
        else:
            trees[place] = tree
    for place, tree in trees.items():
        faults += [f"{place}: {fault}" for fault in _name_faults(tree, names)]
    return faults


def _is_import(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"\$\s*(import|from)\s", value) is not None


def _import(statement: ast.Import | ast.ImportFrom, names: dict[str, Any]) -> str | None:
    """Import as MONAI does; a fault, or None and the name is defined."""
    alias = statement.names[0]
    text = ast.unparse(statement)
    if len(statement.names) > 1:
        return f"'{text}': MONAI keeps the first name only; write one import a line"
    if isinstance(statement, ast.Import) and "." in alias.name and alias.asname is None:
        return f"'{text}' defines no usable name: write 'import {alias.name} as ...'"
    names[alias.asname or alias.name] = None  # so that a failed import is one fault
    try:
        if isinstance(statement, ast.Import):
            names[alias.asname or alias.name] = import_module(alias.name)
            return None
        module = import_module(statement.module or "")
        if not hasattr(module, alias.name):
            import_module(f"{statement.module}.{alias.name}")
        names[alias.asname or alias.name] = getattr(module, alias.name)
    except ImportError:
        known = dir(module) if isinstance(statement, ast.ImportFrom) and "module" in locals() else ()
        return f"'{text}' cannot be imported{nearest(alias.name, known)}"
    return None


def _name_faults(tree: ast.AST, names: Mapping[str, Any]) -> list[str]:
    """Names that no import defines, and attributes that a module does not have."""
    nodes = list(ast.walk(tree))
    local = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    local |= {node.arg for node in nodes if isinstance(node, ast.arg)} | {REFERENCE}
    faults = []
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in local | names.keys() and not hasattr(builtins, node.id):
            faults.append(f"'{node.id}' is defined by no import{nearest(node.id, list(names))}")
        elif isinstance(node, ast.Attribute):
            owner = _module(node.value, {name: value for name, value in names.items() if name not in local})
            if owner is not None and not hasattr(owner, node.attr):
                faults.append(f"{owner.__name__} has no '{node.attr}'{nearest(node.attr, dir(owner))}")
    return list(dict.fromkeys(faults))


def _module(node: ast.AST, names: Mapping[str, Any]) -> ModuleType | None:
    """The module that an expression such as `os.path` is, or None."""
    if isinstance(node, ast.Name):
        value = names.get(node.id)
    elif isinstance(node, ast.Attribute):
        owner = _module(node.value, names)
        value = getattr(owner, node.attr, None) if owner is not None else None
    else:
        return None
    return value if inspect.ismodule(value) else None


def hash_faults(used: Mapping[str, Any]) -> list[str]:
    """Texts with '#', which MONAI replaces by '::' everywhere.

    Args:
        used: ids and their values.
    """
    return [
        f"{place}: '#' becomes '::' in '{value}'"
        for place, value in used.items()
        if isinstance(value, str) and "#" in value and not re.fullmatch(r"[@%$].*", value)
    ]
