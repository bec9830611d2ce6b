"""What a request to the server may say; the rest is left out or refused.

MONAI Label hands a request's parameters on as they come: an inference would read any file of the server by its path, a
label's tag or a scan's name with `..` would be written anywhere, and a training would load any file as the settings of
its tracking, which are code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmoda.data.inputs import NIFTI_SUFFIXES
from crossmoda.errors import InputError

RESULT_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd")
DEVICE = re.compile(r"(cpu|cuda|mps)(:\d+)?( .*)?")  # MONAI Label's own list has e.g. `cuda:0 NVIDIA ...`
_INFER_KEYS = ("model", "image", "device", "description", "save_label", "label_tag", "client_id", "_id", "_image_id")
_TRAIN_KEYS = ("model", "device", "bundle_path", "client_id")


def check_name(name: str, what: str) -> str:
    """A name that becomes part of a path on the server.

    Args:
        name: of a scan, a model or a label's tag.
        what: which of them, for the message.

    Returns:
        The name.

    Raises:
        InputError: if it is empty, starts with a dot, or has a slash or a character that cannot be printed.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^./\\][^/\\]*", name) or not name.isprintable():
        raise InputError(f"{what} {name!r}: give a name without slashes that does not start with a dot")
    return name


def infer_request(request: Mapping[str, Any], uploads: str | Path) -> dict[str, Any]:
    """The part of an inference's request that is let through.

    Args:
        request: as MONAI Label has it: model, image (a scan's name, or the path of an uploaded file) and options.
        uploads: the folder where the server keeps uploaded files.

    Returns:
        A new request.

    Raises:
        InputError: if `image` is neither a name nor an uploaded file, or an option has a value that is not allowed.
    """
    kept = {key: request[key] for key in _INFER_KEYS if key in request}
    _check_device(kept)
    image = request.get("image")
    if not isinstance(image, str) or Path(image).is_absolute():
        folder = Path(uploads).resolve()
        if not isinstance(image, str) or Path(image).resolve().parent != folder:
            raise InputError(f"image {image!r} is not a scan of the studies: give its name, or upload the file")
    else:
        check_name(image, "image")
    if "label_tag" in kept:
        check_name(kept["label_tag"], "label_tag")
    suffix = request.get("result_extension")
    if suffix:
        if suffix not in RESULT_SUFFIXES:
            raise InputError(f"result_extension {suffix!r}: give one of {', '.join(RESULT_SUFFIXES)}")
        kept["result_extension"] = suffix
    return kept


def train_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training's request that is let through.

    Args:
        request: as MONAI Label has it: model and options.

    Returns:
        A new request with `max_epochs` (>= 1), `val_split` in [0, 1) and `learning_rate` (> 0), where they were given.

    Raises:
        InputError: if one of them has another value.
    """
    kept = {key: request[key] for key in _TRAIN_KEYS if key in request}
    _check_device(kept)
    rules = {
        "max_epochs": (int, lambda value: value >= 1, "a number of at least 1"),
        "val_split": (float, lambda value: 0 <= value < 1, "a share from 0 to below 1"),
        "learning_rate": (float, lambda value: 0 < value < math.inf, "a number above 0"),
    }
    for key, (kind, allowed, text) in rules.items():
        if request.get(key) is None:
            continue
        try:
            kept[key] = kind(request[key])
        except (TypeError, ValueError):
            kept[key] = None
        if kept[key] is None or not allowed(kept[key]):
            raise InputError(f"{key} {request[key]!r}: give {text}")
    return kept


def _check_device(request: dict[str, Any]) -> None:
    device = request.get("device")
    if isinstance(device, list) and device:  # a client sends a choice's whole list if nobody chose
        device = request["device"] = device[0]
    if device and not (isinstance(device, str) and DEVICE.fullmatch(device)):
        raise InputError(f"device {device!r}: give cpu, cuda or cuda:N")
