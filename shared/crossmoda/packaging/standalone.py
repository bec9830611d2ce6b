"""Configs that run without the repository: JSON, merged, and with the package `crossmoda` beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from crossmoda.bundle import flatten_config
from crossmoda.packaging.ids import Config, reached
from crossmoda.packaging.workflow import asked_for, workflow_type

IMPORTS = ["$import os", "$import sys", "$import traceback", "$from monai.bundle import ConfigWorkflow"]
# `monai.bundle.load` tells a config neither its folder nor puts that on Python's path before `initialize`. The workflow
# that reads the config knows where it lies, and is found on the stack; without one (`ckpt_export` and other commands
# that only parse) the working directory is the bundle, as everywhere in the model zoo.
WORKFLOW = (
    "$next((frame.f_locals['self'] for frame, _ in traceback.walk_stack(None)"
    " if isinstance(frame.f_locals.get('self'), ConfigWorkflow)), None)"
)
BUNDLE_ROOT = "$str(@workflow.config_root_path.resolve().parent) if @workflow else os.getcwd()"
# MONAI has tried all imports before the first expression is evaluated: with the path there, the config is read again.
INITIALIZE = ["$sys.path.insert(0, @bundle_root)", "$@workflow.parser.parse() if @workflow else None"]


def standalone_config(files: Sequence[Path]) -> Config:
    """A workflow and its overlays in one config that finds its own folder and the package beside it.

    Args:
        files: the workflow, then its overlays.

    Returns:
        What JSON can hold. What overlays bring for other workflows is left out.
    """
    base, config = flatten_config(files[:1]), flatten_config(files)
    used = reached(config, asked_for(workflow_type(base)))
    config = {key: value for key, value in config.items() if key in base or key in used}
    config["imports"] = [*IMPORTS, *(item for item in config.get("imports", []) if item not in IMPORTS)]
    first = {"imports": config.pop("imports"), "workflow": WORKFLOW, "bundle_root": BUNDLE_ROOT}
    return first | {key: value for key, value in config.items() if key != "bundle_root"} | _initialize(config)


def standalone_overlay(file: Path) -> dict[str, Any]:
    """An overlay that stays one, `multi_gpu_train`: as it is, with the same first steps if it replaces them."""
    overlay = ConfigParser.load_config_file(file)
    return overlay | _initialize(overlay) if "initialize" in overlay else overlay


def _initialize(config: Config) -> dict[str, list[str]]:
    steps = config.get("initialize", [])
    return {"initialize": INITIALIZE + (steps if isinstance(steps, list) else [steps])}
