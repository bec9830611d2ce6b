"""A bundle with trained weights as one zip that needs nothing of the repository."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import crossmoda
from crossmoda.bundle import config_path, flatten_config, flatten_metadata
from crossmoda.errors import InputError
from crossmoda.packaging.archive import write_archive
from crossmoda.packaging.check import check_bundle, overlay_path, takes_overlays, workflows
from crossmoda.packaging.metadata import VERSIONS, installed
from crossmoda.packaging.standalone import standalone_config, standalone_overlay
from crossmoda.packaging.weights import build_network, read_weights

HERE = Path(__file__).parent
VENDORED = (".py", ".jinja", ".yaml", ".json", ".md", ".txt", ".typed")
MULTI_GPU = "multi_gpu_train"


def package_bundle(
    root: str | Path, weights: str | Path, overlays: Sequence[str] = (), output: str | Path | None = None
) -> Path:
    """Write `<name>_v<version>.zip`: merged JSON configs, weights, model card, checksums and the package `crossmoda`.

    The same input gives the same bytes. The package is vendored, not a wheel: a wheel would have to be installed before
    `monai.bundle.load` finds its classes, and two packages of different times would overwrite each other's.

    Args:
        root: the bundle's folder.
        weights: `model.pt` of a training with the same overlays.
        overlays: merged on top of the workflows that take them (`takes_overlays`), in order.
        output: the zip; None takes the name above in the working directory.

    Returns:
        The zip.

    Raises:
        InputError: if the bundle or the weights have a fault.
    """
    root = Path(root)
    faults = check_bundle(root, overlays)
    if faults:
        raise InputError(f"{root.name} is not packaged: {faults[0]} (scripts/check_bundle.py lists all)")
    name = "_".join([root.name, *(Path(item).stem for item in overlays)])
    metadata = packaged_metadata(root, overlays)
    network = build_network(flatten_config([config_path(root, "inference"), *_files(root, overlays)]))
    read_weights(weights, network)
    content = Path(weights).read_bytes()
    files = {
        **_configs(root, overlays, metadata),
        **vendored_package(),
        "LICENSE": (root / "LICENSE").read_bytes(),
        "docs/data_license.txt": (HERE / "data_license.txt").read_bytes(),
        "models/model.pt": content,
    }
    files["docs/README.md"] = _card(
        root, name, overlays, content, sum(p.numel() for p in network.parameters())
    ).encode()
    output = Path(output) if output else Path(f"{name}_v{metadata['version']}.zip")
    write_archive(name, files, output)
    return output


def packaged_metadata(root: Path, overlays: Sequence[str]) -> dict[str, Any]:
    """Metadata with the versions that are installed, and all packages that the vendored code needs.

    Args:
        root: the bundle's folder.
        overlays: in order; those of the bundle may have metadata of their own.
    """
    metadata = flatten_metadata(root, [item for item in overlays if overlay_path(root, item) != Path(item)])
    metadata |= {key: installed(package) for key, package in VERSIONS.items()}
    needed = {*dependencies(), *metadata.get("required_packages_version", {})}
    found = {package: installed(package) for package in sorted(needed - {*VERSIONS.values()})}
    metadata["required_packages_version"] = {package: number for package, number in found.items() if number}
    return metadata


def dependencies() -> list[str]:
    """Names of the packages that crossmoda needs."""
    project = Path(crossmoda.__file__).parents[1] / "pyproject.toml"
    if project.is_file():  # a checkout, whose installed list may be older
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        listed = requires("crossmoda") or []
    return sorted(re.match(r"[\w.-]+", item)[0] for item in listed)


def vendored_package() -> dict[str, bytes]:
    """Files of the package `crossmoda`, with what tells Python its version."""
    folder = Path(crossmoda.__file__).parent
    paths = [path for path in folder.rglob("*") if path.suffix in VENDORED and "__pycache__" not in path.parts]
    number = installed("crossmoda") or "0"
    about = ["Metadata-Version: 2.1", "Name: crossmoda", f"Version: {number}", "License: Apache-2.0"]
    about += [f"Requires-Dist: {name}" for name in dependencies()]
    return {
        **{f"crossmoda/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths},
        f"crossmoda-{number}.dist-info/METADATA": "\n".join([*about, ""]).encode(),
    }


def _files(root: Path, overlays: Sequence[str]) -> list[Path]:
    return [overlay_path(root, item) for item in overlays]


def _configs(root: Path, overlays: Sequence[str], metadata: dict[str, Any]) -> dict[str, bytes]:
    configs = root / "configs"
    content: dict[str, Any] = {"metadata": metadata}
    for name in workflows(root):
        own = _files(root, overlays) if takes_overlays(root, name) else []
        content[name] = standalone_config([configs / f"{name}.yaml", *own])
    if (configs / f"{MULTI_GPU}.yaml").is_file():
        content[MULTI_GPU] = standalone_overlay(configs / f"{MULTI_GPU}.yaml")
    files = {f"configs/{name}.json": (json.dumps(value, indent=4) + "\n").encode() for name, value in content.items()}
    as_they_are = [path for name in ("logging.conf", "mlflow.json") if (path := configs / name).is_file()]
    return files | {f"configs/{path.name}": path.read_bytes() for path in as_they_are}


def _card(root: Path, name: str, overlays: Sequence[str], weights: bytes, parameters: int) -> str:
    """The bundle's model card, with what this package is after its title."""
    title, _, rest = (root / "docs" / "README.md").read_text(encoding="utf-8").partition("\n")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # Markdown: nothing to escape
    return environment.from_string((HERE / "card.md.jinja").read_text(encoding="utf-8")).render(
        title=title,
        bundle=root.name,
        overlays=overlays,
        version=installed("crossmoda"),
        parameters=parameters,
        checksum=hashlib.sha256(weights).hexdigest(),
        name=name,
        rest=re.sub(r"\[([^\]]*)\]\((?:\.\./)+[^)]*\)", r"\1 (of the crossmoda repository)", rest).rstrip(),
    )
