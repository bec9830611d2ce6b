"""The metadata of a bundle against MONAI's schema and the installed versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jsonschema import Draft201909Validator

SCHEMA = Path(__file__).parent / "schemas" / "meta_schema_20240725.json"
# Keys of the metadata and the packages that they speak of
VERSIONS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


def metadata_faults(metadata: Mapping[str, Any]) -> list[str]:
    """What is wrong with metadata; one line each.

    Args:
        metadata: of a bundle, overlays merged.
    """
    faults = []
    for error in _validator().iter_errors(metadata):
        place = "::".join(str(part) for part in error.absolute_path)
        faults.append(f"{place + ': ' if place else ''}{' '.join(error.message.split())[:200]}")
    if not str(metadata.get("schema", "")).endswith(SCHEMA.name):
        faults.append(f"schema: must end in {SCHEMA.name}")
    if metadata.get("version") not in metadata.get("changelog", {}):
        faults.append(f"changelog: has no entry for version {metadata.get('version')}")
    # MONAI's commands verify_net_in_out, ckpt_export and onnx_export know these two names only.
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        if name not in metadata.get("network_data_format", {}).get(side, {}):
            faults.append(f"network_data_format::{side}: has no '{name}', which MONAI's commands look for")
    return faults + _version_faults(metadata)


def installed(package: str) -> str | None:
    """Version of an installed package without its local part (`2.13.0+cpu` is 2.13.0), or None."""
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None


@cache
def _validator() -> Draft201909Validator:
    return Draft201909Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def _version_faults(metadata: Mapping[str, Any]) -> list[str]:
    stated = {key: (package, metadata.get(key)) for key, package in VERSIONS.items()}
    required = metadata.get("required_packages_version", {})
    stated |= {f"required_packages_version::{name}": (name, number) for name, number in required.items()}
    faults = []
    for place, (package, number) in stated.items():
        found = installed(package)
        if number is not None and found != number:
            faults.append(f"{place}: is {number}, but {package} {found or 'is not'} {'is ' * bool(found)}installed")
    return faults
