"""The transparent baseline: geometric features to grades, with the features beside the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import KoosAnswer, grade_answer, no_answer, write_answers
from crossmoda.koos.features import (
    PARCELLATION,
    Classes,
    FeatureTable,
    as_json,
    measure_case,
    measure_graded,
    read_table,
    write_table,
)
from crossmoda.koos.folds import grade_folds
from crossmoda.koos.geometry import EXTRA_MEATAL, FEATURES, GeometrySettings
from crossmoda.koos.items import GRADES, Item
from crossmoda.koos.jitter import JitterMasks
from crossmoda.koos.ordinal import grade_model, grade_probabilities
from crossmoda.metrics.grades import grade_metrics
from crossmoda.provenance import git_revision, versions

OUT_OF_FOLD = "out_of_fold"  # folder of the training cases' own grades
NEEDED = {  # structures, and a feature that is missing without them
    "no cochlea on the tumour's side": "extra_meatal_extent_mm",
    "no brainstem": "brainstem_distance_mm",
    "no cerebellum": "cerebellum_distance_mm",
}


def train_geometry(
    items: Sequence[Item],
    classes: Classes,
    output_dir: str | Path,
    features: Mapping[str, float] | None = None,
    model: str = "both",
    num_folds: int = 5,
    seed: int = 0,
    copies: int = 4,
    jitter: Mapping[str, float] | None = None,
    unsure_below: float = 0.4,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure graded cases, cross-validate, and write what the grading of new cases needs.

    The "model" is the table of features: scikit-learn's models are fitted to it again in a second wherever they are
    needed, so that nothing is pickled.

    Args:
        items: of `koos_items`, source cases only.
        classes: of `structure_classes`.
        output_dir: gets `features.csv`, `geometry.json`, and in `out_of_fold` the grades of the training cases by
            models that did not see them.
        features: of `GeometrySettings`.
        model: of `crossmoda.koos.ordinal.MODELS`.
        num_folds: of `grade_folds`.
        seed: of folds, jitter and forest.
        copies: jittered copies a case.
        jitter: of `JitterMasks`.
        unsure_below: of `grade_answer`.
        progress: whether to show a bar.

    Returns:
        `grade_metrics` of the out-of-fold grades.

    Raises:
        InputError: as `measure_graded` and `grade_folds`, or if no case has a brainstem.
    """
    settings = GeometrySettings(**(features or {}))
    folds = grade_folds(items, num_folds, seed)
    table = measure_graded(items, classes, settings, copies, JitterMasks(**(jitter or {})), seed, progress)
    if np.isnan(table.values[:, list(FEATURES).index("brainstem_distance_mm")]).all():
        raise InputError(f"no brainstem in any of {len(items)} cases: correct the config's classes of structures")
    record = {"model": model, "seed": seed, "features": as_json(settings), "classes": classes}
    record |= {"copies": copies, "jitter": dict(jitter or {}), "num_folds": num_folds}
    record |= {"versions": versions(), "git_revision": git_revision()}
    answers = []
    for fold in folds:
        train = table.of(set(table.cases) - set(fold))
        answers += _answers(table.of(fold, copies=False), train, model, seed, unsure_below)
    truth = dict(zip(table.cases, table.grades.tolist(), strict=True))
    metrics = grade_metrics(
        [truth[answer.case] for answer in answers],
        [answer.grade for answer in answers],
        [answer.probabilities for answer in answers],
        GRADES,
    )
    write_answers(answers, Path(output_dir) / OUT_OF_FOLD)
    write_text(json.dumps(metrics, indent=1) + "\n", Path(output_dir) / OUT_OF_FOLD / "metrics.json")
    write_table(table, record, output_dir)
    print(
        f"{len(items)} cases, {num_folds} folds: MA-MAE {metrics['ma_mae']:.3f}, MA-MSE {metrics['ma_mse']:.3f},"
        f" balanced accuracy {metrics['balanced_accuracy']:.3f} out of fold"
    )
    return metrics


def grade_by_geometry(
    items: Sequence[Item],
    classes: Classes,
    geometry_dir: str | Path,
    output_dir: str | Path,
    unsure_below: float = 0.4,
    progress: bool = True,
) -> list[KoosAnswer]:
    """Grade cases by the features of their masks; writes `grades.csv` and `<case>_koos.json`, and prints the reasons.

    Args:
        items: of `koos_inputs`.
        classes: of `structure_classes`.
        geometry_dir: what `train_geometry` wrote.
        output_dir: of the results.
        unsure_below: of `grade_answer`.
        progress: whether to show a bar.

    Returns:
        The answers in the order of the items.

    Raises:
        InputError: as `read_table` and `measure_case`, or if the masks have parts of the tumour and the training's had
            none, or the other way round.
    """
    table, settings = read_table(geometry_dir)
    if (EXTRA_MEATAL in classes) != (EXTRA_MEATAL in settings["classes"]):
        raise InputError(f"{geometry_dir} and these masks differ in parts of the tumour: name them in both configs")
    measured, answers = [], []
    for item in tqdm(items, desc="Measuring", unit="case", leave=False, disable=None if progress else True):
        measured.append(measure_case(item, classes, settings["features"]))
    found = [(item["case"], rows[0]) for item, rows in zip(items, measured, strict=True) if rows]
    if found:
        new = FeatureTable(
            np.array([case for case, _ in found]),
            np.zeros(len(found), int),
            np.zeros(len(found), int),
            np.array([list(row.values()) for _, row in found]),
        )
        answers = _answers(new, table, settings["model"], settings["seed"], unsure_below)
    by_case = {answer.case: answer for answer in answers}
    answers = [by_case.get(item["case"]) or no_answer(item["case"]) for item in items]
    write_answers(answers, output_dir)
    for answer in answers:
        print(explain(answer))
    return answers


def explain(answer: KoosAnswer) -> str:
    """The answer in words: the grade, its probabilities, and each feature beside the training cases' by grade."""
    grade = f"Koos grade {answer.grade}" if answer.grade is not None else "no grade"
    lines = [f"{answer.case}: {grade}" + (f" ({'; '.join(answer.flags)})" if answer.flags else "")]
    if answer.probabilities:
        shares = zip(GRADES, answer.probabilities, strict=True)
        lines[0] += ", probabilities " + ", ".join(f"{number}: {share:.2f}" for number, share in shares)
    ranges = answer.details.get("training_ranges", {})
    if ranges:
        heads = [f"grade {number}" for number in ranges[next(iter(ranges))]]
        lines.append(f"  {'':28}{'here':>8}" + "".join(f"{head:>16}" for head in heads) + "  (10 to 90 %, training)")
    for name, spans in ranges.items():
        value = answer.features[name]
        shown = [f"{low:.2f} - {high:.2f}" if low is not None else "-" for low, high in spans.values()]
        lines.append(
            f"  {name:28}{'-' if math.isnan(value) else f'{value:.2f}':>8}" + "".join(f"{s:>16}" for s in shown)
        )
    return "\n".join(lines)


def training_ranges(table: FeatureTable) -> dict[str, dict[int, list[float | None]]]:
    """For each feature and grade the 10th and 90th percentile of the cases' own masks; None where none was measured."""
    own = table.values[table.copies == 0]
    grades = table.grades[table.copies == 0]
    out: dict[str, dict[int, list[float | None]]] = {}
    for column, name in enumerate(FEATURES):
        out[name] = {}
        for grade in sorted(set(grades.tolist())):
            values = own[grades == grade, column]
            known = values[~np.isnan(values)]
            out[name][grade] = np.percentile(known, [10, 90]).tolist() if len(known) else [None, None]
    return out


def parcellations(items: Sequence[Item], structures: str | Path | None) -> list[Item]:
    """Items whose brainstem and cerebellum stand in label maps of their own.

    Args:
        items: of `koos_inputs`.
        structures: folder with `<case>_seg.nii.gz`, or the file of a single case; None changes nothing.

    Raises:
        InputError: if a file is missing.
    """
    if structures is None:
        return list(items)
    folder, out = Path(structures).absolute(), []
    for item in items:
        path = folder / f"{item['case']}_seg.nii.gz" if folder.is_dir() or len(items) > 1 else folder
        if not path.is_file():
            raise InputError(f"{path} is missing: segment brainstem and cerebellum of {item['case']} first")
        out.append({**item, PARCELLATION: str(path)})
    return out


def _answers(new: FeatureTable, train: FeatureTable, model: str, seed: int, unsure_below: float) -> list[KoosAnswer]:
    """Grades of new cases by a model fitted to the training's rows."""
    fitted = grade_model(model, seed).fit(train.values, train.grades)
    shares = grade_probabilities(fitted, new.values, GRADES)
    ranges = training_ranges(train)
    answers = []
    for case, values, probabilities in zip(new.cases, new.values, shares, strict=True):
        features = dict(zip(FEATURES, values.tolist(), strict=True))
        missing = [flag for flag, name in NEEDED.items() if math.isnan(features[name])]
        details = {"training_ranges": ranges}
        answers.append(grade_answer(str(case), probabilities, unsure_below, missing, features, details))
    return answers


train_geometry_or_exit = exit_on_input_error(train_geometry)
grade_by_geometry_or_exit = exit_on_input_error(grade_by_geometry)
parcellations_or_exit = exit_on_input_error(parcellations)
