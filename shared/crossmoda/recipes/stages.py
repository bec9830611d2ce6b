"""The stages of a recipe, and the rules of the Snakefile that make them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossmoda.errors import InputError

# In the order of the data's way; the names are those of `--until`.
STAGES = {
    "data": ("phantom", "datalist", "oracle_datalist"),
    "prepare": ("prepare", "prepare_truth"),
    "translate": ("train_translator", "translate", "judge_translations", "pool_views"),
    "segment": ("train_segmenter", "train_fold", "evaluate"),
    "self-train": ("self_train", "predict_self_training", "judge_self_training", "judge_rounds"),
    "fuse": ("fuse",),
    "koos": ("koos",),
    "report": ("report",),
}


def stages_of(config: Mapping[str, Any]) -> list[str]:
    """The stages that a recipe has.

    Args:
        config: of the Snakefile.
    """
    parts = {"prepare": "preparation", "self-train": "self_training", "fuse": "fusions", "koos": "koos"}
    return [stage for stage in STAGES if stage not in parts or config.get(parts[stage])]


def rules_until(config: Mapping[str, Any], stage: str) -> list[str]:
    """The rules of a stage, for `snakemake --until`.

    Args:
        config: of the Snakefile.
        stage: one of `stages_of`.

    Raises:
        InputError: if the recipe has no such stage.
    """
    stages = stages_of(config)
    if stage not in stages:
        raise InputError(f"recipe {config['name']} has no stage '{stage}': give --until one of {', '.join(stages)}")
    return list(STAGES[stage])
