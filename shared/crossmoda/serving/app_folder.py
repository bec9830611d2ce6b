"""The folder that MONAI Label serves: copies of bundles, flattened, with their weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from crossmoda.bundle import bundle_root, config_path, flatten_config, flatten_metadata
from crossmoda.data import replacing, write_text
from crossmoda.engines import load_weights
from crossmoda.errors import InputError

MAIN = '''"""MONAI Label looks here for a class whose base is called MONAILabelApp."""

from crossmoda.serving.label import LabelApp

__all__ = ["LabelApp"]
'''
TYPES = {"segmentation": "segmentation", "classes": "classification"}  # metadata's format -> MONAI Label's type


def served_type(metadata: Mapping[str, Any]) -> str:
    """MONAI Label's type of a bundle, by the format of its output `pred`: `others` gives an image, not labels."""
    return TYPES.get(metadata["network_data_format"]["outputs"]["pred"]["format"], "others")


def make_app(
    app_dir: str | Path,
    bundles: Sequence[str],
    weights: Mapping[str, str | Path] | None = None,
    overlays: Mapping[str, Sequence[str]] | None = None,
    tracking_uri: str | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Make or renew the folder that is served.

    MONAI Label reads one config a workflow and writes new weights into the bundle, so each bundle is copied, with its
    configs flattened. A copy keeps its weights, which may have been trained on since, until others are given.

    Args:
        app_dir: the folder; `main.py`, `served.json`, `model/<bundle>` and `uploads` are made in it.
        bundles: names of bundles.
        weights: bundle to its weights, a plain state dict; else `models/model.pt` of the bundle.
        overlays: bundle to configs that are merged on top, in order: names as `config_path` takes them, or YAML files.
        tracking_uri: of MLflow; None is a store in `app_dir`.
        fresh: whether the given weights replace those that were trained on.

    Returns:
        What `served.json` has: for each bundle its type, whether it can be trained, and its weights' checksum.

    Raises:
        InputError: if a bundle, config or weights file is missing, does not fit, or cannot be served.
    """
    app_dir, weights, overlays = Path(app_dir).absolute(), weights or {}, overlays or {}
    for name in [*weights, *overlays]:
        if name not in bundles:
            raise InputError(f"'{name}' is given weights or overlays but is not among --bundles {','.join(bundles)}")
    record = app_dir / "served.json"
    before = json.loads(record.read_text(encoding="utf-8"))["bundles"] if record.is_file() else {}
    served: dict[str, Any] = {}
    for name in bundles:
        root = Path(bundle_root(name))
        source = Path(weights.get(name, root / "models" / "model.pt")).absolute()
        copy = app_dir / "model" / name
        served[name] = _copy_configs(root, copy, overlays.get(name, ()))
        _check_weights(copy, source)
        served[name]["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
        kept = before.get(name, {}).get("sha256") == served[name]["sha256"] and not fresh
        if not (kept and (copy / "models" / "model.pt").is_file()):
            _copy_weights(source, copy / "models")
    content = {"bundles": served, "tracking_uri": tracking_uri or f"sqlite:///{app_dir / 'mlruns.db'}"}
    (app_dir / "uploads").mkdir(parents=True, exist_ok=True)
    write_text(MAIN, app_dir / "main.py")
    write_text(json.dumps(content, indent=1) + "\n", record)
    return content


def _copy_configs(root: Path, copy: Path, overlays: Sequence[str]) -> dict[str, Any]:
    """Write the flattened configs; returns type and trainable."""
    own = [name for name in overlays if _is_config_file(name)]
    names = [name for name in overlays if name not in own]
    files = [Path(name) if name in own else config_path(root, name) for name in overlays]
    quiet = {"progress": False}
    inference = flatten_config([config_path(root, "inference"), *files], quiet)
    if "network_def" not in inference:
        raise InputError(f"bundle '{root.name}' has no network of its own: serve the bundle of the network it trained")
    metadata = flatten_metadata(root, names)
    kind = served_type(metadata)
    if kind == "others":
        metadata["network_data_format"]["outputs"]["pred"].pop("channel_def", None)  # MONAI Label takes it for labels
    configs = {"inference": inference, "metadata": metadata}
    # Labels that a person draws on raw scans train a network that reads raw scans, and only what they show.
    trainable = kind == "segmentation" and "preparation" not in inference
    if trainable:
        train = flatten_config([config_path(root, "train"), *files], quiet)
        trainable = not train.get("needs")
        if trainable:
            configs["train"] = train
    shutil.rmtree(copy / "configs", ignore_errors=True)
    for name, config in configs.items():
        write_text(json.dumps(config, indent=1) + "\n", copy / "configs" / f"{name}.json")
    shutil.copy(root / "configs" / "mlflow.json", copy / "configs" / "mlflow.json")
    return {"type": kind, "trainable": trainable}


def _is_config_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".json") and Path(name).is_file()


def _check_weights(copy: Path, source: Path) -> None:
    """Load the weights once, so that a fault is known before the server runs."""
    parser = ConfigParser(json.loads((copy / "configs" / "inference.json").read_text(encoding="utf-8")))
    parser["bundle_root"] = str(copy)
    load_weights(parser.get_parsed_content("network_def"), source)


def _copy_weights(source: Path, folder: Path) -> None:
    for path in (source, source.with_name("reference.json")):
        target = folder / ("model.pt" if path is source else path.name)
        target.unlink(missing_ok=True)
        if path.is_file():
            with replacing(target) as temporary:
                shutil.copy(path, temporary)
