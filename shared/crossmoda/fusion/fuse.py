"""Fusion of members' results on disk into label maps on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from tqdm import tqdm

from crossmoda.data import load_datalist, save_nifti
from crossmoda.errors import InputError
from crossmoda.fusion.choice import read_choice
from crossmoda.fusion.members import CaseFiles, Member, as_members, classes_of, count_classes, find_cases
from crossmoda.fusion.rules import get_rule
from crossmoda.labels import LABELS_2023, NUM_CLASSES
from crossmoda.metrics import evaluate
from crossmoda.postprocessing import apply_rules, read_rules
from crossmoda.uncertainty import case_report, write_report

logger = logging.getLogger(__name__)


def fuse_members(
    members: Sequence[str | Path],
    rule: str,
    output_dir: str | Path,
    postprocessing: Sequence[str] | str = (),
    data_list: str | Path | None = None,
    section: str | None = None,
    num_classes: int = NUM_CLASSES,
    progress: bool = True,
) -> list[str]:
    """Write `<output_dir>/<case>_seg.nii.gz` in the scan's grid, and `<case>_seg.json`, for each case.

    Args:
        members: output folders of inferences, or NAME=FOLDER.
        rule: name of a fusion rule, or the JSON of a choice (`write_choice`), which names members and rule.
        output_dir: folder to write to.
        postprocessing: rules of `crossmoda.postprocessing`, or the JSON of their choice.
        data_list: data list whose cases are fused; None takes those that the folders hold.
        section: its section; where it has labels, metrics.csv and summary.json are written too.
        num_classes: classes with background, if the members have no probabilities that would tell.
        progress: whether to show a bar.

    Returns:
        The cases.

    Raises:
        InputError: if members differ in cases, grid or classes, lack what the rule reads, a name is unknown, or
            `output_dir` can't be made or is a member's folder.
    """
    found = as_members(members)
    if Path(output_dir).resolve() in [member.folder.resolve() for member in found]:
        raise InputError(f"{output_dir} holds a member's results, which would be lost: give another --output_dir")
    chosen, rule = _resolve(found, rule)
    fusion, rules = get_rule(rule), read_rules(postprocessing)
    items = load_datalist(data_list, section, check="none", progress=False) if data_list else None
    cases = find_cases(chosen, fusion.reads, items and [item["case"] for item in items])
    num_classes = count_classes(chosen, cases[0], num_classes)
    classes = classes_of(num_classes)
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output_dir} can't be made ({error.strerror}): give another --output_dir") from None
    for case in tqdm(cases, desc="Fusing", unit="case", leave=False, disable=None if progress else True):
        files = CaseFiles(case, tuple(chosen), num_classes)
        fused, grid = fusion.fuse(files), files.grid
        labels = apply_rules(fused.labels, grid.affine, rules, classes)
        save_nifti(labels, grid.affine, Path(output_dir) / f"{case}_seg.nii.gz", header=nib.load(grid.path).header)
        report = case_report(
            case, labels, grid.affine, (classes.tumour, classes.cochlea), fused.probabilities, list(files.labels())
        )
        report = with_likeness(report, [member.folder for member in chosen])
        names = [member.name for member in chosen]
        write_report({**report, "fusion": rule, "fused": names, "postprocessing_rules": rules}, output_dir)
    if items and all(item.get("label") for item in items):
        parts = {0: 0, **{label: label for label in LABELS_2023}} if num_classes > NUM_CLASSES else None
        evaluate(output_dir, data_list, section, progress=progress, part_map=parts)
    return cases


def _resolve(members: list[Member], rule: str) -> tuple[list[Member], str]:
    """The members and the rule that a choice names; all members and the rule itself if it is no file."""
    if not rule.endswith(".json"):
        return members, rule
    choice = read_choice(rule, [member.name for member in members])
    return [member for member in members if member.name in choice["members"]], choice["rule"]


def with_likeness(report: dict[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Take over in what the scan is unlike the training data: the members saw it, the fusion did not.

    Args:
        report: of `crossmoda.uncertainty.case_report`.
        folders: of the members' `<case>_seg.json`.

    Returns:
        The report with `unlike_training`, and its flag, as the members found it.
    """
    known, far = False, {}
    for folder in folders:
        path = Path(folder) / f"{report['case']}_seg.json"
        try:
            features = json.loads(path.read_text(encoding="utf-8"))["unlike_training"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(features, dict):
            known, far = True, {**far, **features}
    flags = [*report["flags"], "unlike_training"] if far else report["flags"]
    return {**report, "flags": flags, "unlike_training": far if known else None}
