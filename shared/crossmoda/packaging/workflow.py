"""What MONAI asks of a workflow's config: required properties, and links between them."""

from __future__ import annotations

from monai.bundle.config_item import ConfigExpression
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import ID_REF_KEY
from monai.utils import BundleProperty, BundlePropertyConfig

from crossmoda.packaging.ids import Config, get, has, nearest, walk

# Links of a `ValidationHandler`: its argument and what it names.
VALIDATION = {"validator": "validate::evaluator", "interval": "val_interval"}


def workflow_type(config: Config) -> str | None:
    """`train` or `infer`; None for a workflow without an engine of MONAI's, which has no properties.

    Args:
        config: merged.
    """
    train = config.get("train")
    if isinstance(train, dict) and {"trainer", "dataset", "inferer"} & train.keys():
        return "train"
    return "infer" if {"evaluator", "inferer", "network_def"} & config.keys() else None


def asked_for(kind: str | None) -> list[str]:
    """Ids that are asked of a workflow from outside.

    Args:
        kind: see `workflow_type`.
    """
    properties = {"train": TrainProperties, "infer": InferProperties}.get(kind or "", {})
    return ["initialize", "run", "finalize", *(entry[BundlePropertyConfig.ID] for entry in properties.values())]


def property_faults(config: Config, kind: str | None) -> list[str]:
    """Required ids that are missing, and links that MONAI would find wrong; one line each.

    MONAI's own `check_properties` builds every object first, raises at the first missing id, and cannot read an inline
    component where a link belongs.

    Args:
        config: merged.
        kind: see `workflow_type`.
    """
    faults = [] if "run" in config else [f"there is no 'run'{nearest('run', [key for key in config if key != 'run'])}"]
    if kind is None:
        return faults
    known = [place for place, _ in walk(config)]
    for name, entry in {"train": TrainProperties, "infer": InferProperties}[kind].items():
        place, link = entry[BundlePropertyConfig.ID], entry.get(BundlePropertyConfig.REF_ID)
        if entry[BundleProperty.REQUIRED] and not has(config, place):
            faults.append(f"'{place}' is missing, which MONAI requires of a workflow ({name}){nearest(place, known)}")
        elif link and link not in VALIDATION and has(config, place):
            faults += _link_faults(config, link, place)
    return faults + _handler_faults(config, kind)


def _link_faults(config: Config, link: str, place: str) -> list[str]:
    value = get(config, link)
    if value is None or ConfigExpression.is_expression(value) or value == ID_REF_KEY + place:
        return []
    return [f"{link}: write '@{place}', for '{place}' is there; it is {_short(value)}"]


def _handler_faults(config: Config, kind: str) -> list[str]:
    place = "train::handlers" if kind == "train" else "handlers"
    handlers = get(config, place)
    if handlers is None:
        return []
    if not isinstance(handlers, list):
        return [f"{place}: must be a list of handlers, for --tracking appends to it; it is {_short(handlers)}"]
    faults = []
    for number, handler in enumerate(handlers):
        if isinstance(handler, dict) and handler.get("_target_") == "ValidationHandler":
            for argument, name in VALIDATION.items():
                if handler.get(argument) is not None:
                    faults += _link_faults(config, f"{place}::{number}::{argument}", name)
    return faults


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return f"'{text[:60]}...'" if len(text) > 60 else f"'{text}'"
