"""What the networks of a round say of the target scans, and the pseudo-labels made of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import (
    label_map,
    pool_views,
    read_probabilities,
    read_sections,
    read_volume,
    save_nifti,
    write_datalist,
    write_text,
)
from crossmoda.data.nifti import open_nifti
from crossmoda.errors import InputError
from crossmoda.fusion import Fused, get_rule
from crossmoda.labels import NUM_CLASSES
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.cleaning import CleaningRule, clean
from crossmoda.selftraining.evidence import CaseEvidence, to_labels
from crossmoda.selftraining.pseudo_label import make_pseudo_label
from crossmoda.selftraining.scores import CaseScores, score_case
from crossmoda.selftraining.voxels import VoxelRule

Item = dict[str, Any]

SOURCE, TARGET = "source_training", "target_training"
TARGET_KEYS = ("case", "site", "image")  # labels, should the list have some, are left behind


@dataclass(frozen=True)
class FileMembers:
    """`crossmoda.fusion.CaseMembers` on disk: `<folder>/<case>_prob.nii.gz` of each member's folder."""

    case: str
    folders: Sequence[Path]
    num_classes: int = NUM_CLASSES
    has_probabilities: bool = True

    def labels(self) -> Iterator[np.ndarray]:
        """Each member's label map."""
        yield from (to_labels(probabilities) for probabilities in self.probabilities())

    def probabilities(self) -> Iterator[np.ndarray]:
        """Each member's class probabilities."""
        for folder in self.folders:
            yield read_probabilities(folder / f"{self.case}_prob.nii.gz")[0]


def fuse(case: str, folders: Sequence[Path], rule: str = "mean", num_classes: int = NUM_CLASSES) -> Fused:
    """Several members' predictions of a case as one.

    Args:
        case: its name.
        folders: of the members' `<case>_prob.nii.gz`.
        rule: of `crossmoda.fusion`.
        num_classes: background included.

    Raises:
        InputError: if there is no such rule, or a file is missing or damaged.
    """
    return get_rule(rule).fuse(FileMembers(case, tuple(folders), num_classes))


def read_evidence(item: Item, folders: Sequence[Path], views: Sequence[Path], classes: Classes) -> CaseEvidence:
    """One target case as the teacher sees it.

    Args:
        item: {case, site, image}.
        folders: of the probabilities that are averaged; each is a view too.
        views: of those that are views only.
        classes: of the networks.

    Raises:
        InputError: if a file is missing or damaged.
    """
    total, labels = None, []
    for probabilities in FileMembers(item["case"], folders).probabilities():
        labels.append(to_labels(probabilities))
        total = probabilities if total is None else total + probabilities
    labels += list(FileMembers(item["case"], views).labels())
    image, affine = read_volume(item["image"])
    return CaseEvidence(
        item["case"], total / np.float32(len(folders)), image, affine, tuple(labels), item.get("site", ""), classes
    )


def write_translated(views: Mapping[str, str | Path], path: Path) -> None:
    """The translated scans of one or several translators as one data list.

    Args:
        views: translator -> the data list that its inference wrote.
        path: the data list to write.

    Raises:
        InputError: if there is none, or the lists do not fit together (see `pool_views`).
    """
    if not isinstance(views, Mapping) or not views:
        raise InputError("no translated scans: give --translated \"{'cyclegan': '.../datalist.json'}\"")
    if len(views) > 1:
        pool_views(views, path, SOURCE)
        return
    (data_list,) = views.values()
    write_datalist({SOURCE: read_sections(data_list, (SOURCE,))[SOURCE]}, path, label_map(data_list))


def write_targets(data_list: str | Path, path: Path) -> None:
    """The real scans without labels as a data list of their own: nothing that follows can know of a label.

    Raises:
        InputError: if the list can't be read or has no such section, or two scans have one name.
    """
    items = read_sections(data_list, (TARGET,))[TARGET]
    names = [item["case"] for item in items]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{data_list}, section {TARGET}, has case {twice[0]} twice: give each scan a name of its own")
    write_datalist({TARGET: [{key: item[key] for key in TARGET_KEYS} for item in items]}, path)


def file_classes(data_list: Path, num_classes: int) -> np.ndarray:
    """Table from a network's classes to those of a data list's label files, in which pseudo-labels are written.

    So that one `label_map` serves both kinds of labels. Where it merges classes (2023's parts of the tumour), the first
    of them stands for all; a network that divides the tumour has the files' own classes.

    Args:
        data_list: the translated scans.
        num_classes: of the network, background included.

    Returns:
        uint8, shape (256,); `IGNORE` stays.
    """
    table = np.arange(256, dtype=np.uint8)
    if num_classes == NUM_CLASSES:
        for original, merged in sorted(label_map(data_list).items(), reverse=True):
            table[merged] = original
    return table


def write_pseudo_labels(
    items: Sequence[Item],
    evidence: Iterator[CaseEvidence],
    folder: Path,
    rules: tuple[Sequence[CleaningRule], Sequence[VoxelRule]],
    table: np.ndarray,
) -> None:
    """`<case>_Label.nii.gz` of every case, kept or not.

    Args:
        items: target items.
        evidence: of each, in the same order.
        folder: where to write.
        rules: cleaning and voxel rules.
        table: from the network's classes to those of the files.
    """
    for item, case in zip(items, evidence, strict=True):
        label = table[make_pseudo_label(case, *rules)]
        header = open_nifti(Path(item["image"])).header
        save_nifti(label, case.affine, folder / f"{item['case']}_Label.nii.gz", header=header)


def write_scores(scores: Sequence[CaseScores], verdicts: Mapping[str, str], path: Path) -> None:
    """`scores.csv`: a row a case, kept or why not, and its numbers."""
    names = list(dict.fromkeys(name for case in scores for name in case.values))
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["case", "site", "kept", "reason", *names])
    for case in scores:
        reason = verdicts[case.case]
        values = [case.values.get(name) for name in names]
        texts = ["" if value is None else f"{value:.6g}" for value in values]
        writer.writerow([case.case, case.site, "no" if reason else "yes", reason, *texts])
    write_text(table.getvalue(), path)


def write_combined(translated: Path, targets: Sequence[Item], labels: Path, kept: Sequence[str], path: Path) -> None:
    """The data list of a round's students.

    Args:
        translated: data list of the translated scans.
        targets: target items.
        labels: folder of the pseudo-labels.
        kept: cases to learn from.
        path: the data list to write.
    """
    items = list(read_sections(translated, (SOURCE,))[SOURCE])
    real = [
        {**item, "label": str(labels / f"{item['case']}_Label.nii.gz"), "pseudo": True}
        for item in targets
        if item["case"] in set(kept)
    ]
    write_datalist({SOURCE: items + real}, path, label_map(translated))


def score_cases(
    evidence: Iterator[CaseEvidence], cleaning: Sequence[CleaningRule] | None, folder: Path
) -> list[CaseScores]:
    """Write each case's fused label map `<case>_seg.nii.gz` and compute its scores, which go to `scores.json`.

    Args:
        evidence: of the cases.
        cleaning: rules after which anatomy and contrast are judged; None judges the most probable classes.
        folder: where to write.
    """
    scores = []
    for case in evidence:
        save_nifti(case.labels, case.affine, folder / f"{case.case}_seg.nii.gz")
        cleaned = None if cleaning is None else clean(cleaning, case.labels, case)
        scores.append(score_case(case, cleaned))
    write_text(json.dumps([case.to_json() for case in scores], indent=1), folder / "scores.json")
    return scores


def read_scores(folder: Path) -> list[CaseScores]:
    """What `score_cases` wrote."""
    return [CaseScores(**case) for case in json.loads((folder / "scores.json").read_text(encoding="utf-8"))]
