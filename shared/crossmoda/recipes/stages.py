"""The stages of a recipe, and what the pipeline makes in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmoda.errors import InputError
from crossmoda.pipeline import Pipeline

# In the order of the data's way, with the entry of a recipe that a stage is for; the names are those of `--until`.
STAGES = {
    "data": None,
    "prepare": "preparation",
    "translate": None,
    "segment": None,
    "self-train": "self_training",
    "fuse": "fusions",
    "koos": "koos",
    "report": None,
}


def stages_of(config: Mapping[str, Any]) -> list[str]:
    """The stages that a recipe has.

    Args:
        config: of the Snakefile.
    """
    found = [stage for stage, entry in STAGES.items() if entry is None or config.get(entry)]
    return found[1:] if "data_list" in config else found  # the user's list is there


def targets_until(config: Mapping[str, Any], stage: str) -> list[str]:
    """What Snakemake has to make for all stages up to one: files, or rules.

    Args:
        config: of the Snakefile.
        stage: one of `stages_of`.

    Raises:
        InputError: if the recipe has no such stage.
    """
    stages = stages_of(config)
    if stage not in stages:
        raise InputError(f"recipe {config['name']} has no stage '{stage}': give --until one of {', '.join(stages)}")
    pipeline = Pipeline(config)
    return [str(target) for name in stages[: stages.index(stage) + 1] for target in _targets(pipeline, name)]


def _targets(pipeline: Pipeline, stage: str) -> list[Path | str]:
    volumes = [pipeline.images(name) for name in pipeline.translators]
    return {
        "data": [path for path in (pipeline.data, pipeline.truth) if path],
        "prepare": [path for path in (pipeline.prepared / "datalist.json", pipeline.true_scans()) if path],
        "translate": [
            *volumes,
            *[path.with_name("summary.json") for path in volumes if "judging_overlays" in pipeline.config],
            *[pipeline.images(view) for view in pipeline.views],
        ],
        "segment": [pipeline.result(name) for name in pipeline.systems],
        "self-train": [
            *[pipeline.result(name) for name in pipeline.self_trainings],
            *[pipeline.rounds(name) for name in pipeline.self_trainings if pipeline.truth],
        ],
        "fuse": [pipeline.result(name) for name in pipeline.fusions],
        "koos": ["koos"],
        "report": [
            pipeline.run / "report" / "index.html",
            *([pipeline.run / "cases"] if "final" in pipeline.config else []),
        ],
    }[stage]
