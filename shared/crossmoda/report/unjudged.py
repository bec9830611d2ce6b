"""The page of a run whose truth is not known: what the systems found, what stands out, how the trainings went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import read_sections
from crossmoda.errors import InputError
from crossmoda.report.page import (
    ReportInput,
    curves,
    folder_with,
    run_facts,
    training_history,
    translation_panels,
    volumes_folder,
    write_files,
)
from crossmoda.report.pictures import translation_figure
from crossmoda.report.tables import NONE, Table
from crossmoda.report.translations import translation_table

Findings = Sequence[Mapping[str, Any]]


def write_unjudged_report(report: ReportInput, output_dir: str | Path) -> str:
    """Write `index.html`, `results.md`, `results.json` and the pictures as `write_report` does, without any truth.

    Args:
        report: what to show; its data list needs no labels of the target scans, bounds are not used.
        output_dir: where to write.

    Returns:
        The main table as text for the terminal.

    Raises:
        InputError: if there is no system or a case's `<case>_seg.json` is missing, or `focus` is none of the systems.
    """
    if not report.systems or report.data_list is None:
        raise InputError("a report needs at least one system and the data list: give --system NAME=DIR, --data_list")
    focus = report.focus or next(iter(report.systems))
    if focus not in report.systems:
        raise InputError(f"'{focus}' is none of the systems {', '.join(report.systems)}: correct --focus")
    items = read_sections(report.data_list, (report.section,))[report.section]
    findings = {
        name: [_read(folder_with(folder, f"{item['case']}_seg.json"), item["case"]) for item in items]
        for name, folder in report.systems.items()
    }
    volumes = {name: volumes_folder(folder) for name, folder in report.translations.items()}
    histories = {name: training_history(folder) for name, folder in report.translations.items()}
    found = [findings_table(findings), case_table(focus, findings[focus]), translation_table(volumes, histories)]
    figures = {"translations": translation_figure(translation_panels(report))} if report.translations else {}
    results = {"focus": focus, "note": report.note, "facts": run_facts(report), "systems": findings}
    write_files(report, focus, [table for table in found if table], figures | curves(report), results, output_dir)
    return found[0].text()


def findings_table(findings: Mapping[str, Findings]) -> Table:
    """One row a system: mean volumes, entropy and how many scans are flagged.

    Args:
        findings: of each system the contents of its `<case>_seg.json`.
    """
    classes = list(next(iter(findings.values()))[0]["volumes_ml"])
    rows = []
    for name, cases in findings.items():
        volumes = [f"{np.mean([case['volumes_ml'].get(part, 0.0) for case in cases]):.2f}" for part in classes]
        entropies = [case["entropy"] for case in cases if case.get("entropy") is not None]
        entropy = f"{np.mean(entropies):.2f}" if entropies else NONE
        rows.append([name, *volumes, entropy, str(sum(bool(case["flags"]) for case in cases))])
    header = ["system", *[f"{part} (mL)" for part in classes], "entropy", "flagged"]
    return Table(f"What was found in {len(cases)} scans, means; not judged, for there is no truth", header, rows)


def case_table(name: str, cases: Findings) -> Table:
    """One row a scan: volumes, entropy, agreement and flags of one system."""
    classes = list(cases[0]["volumes_ml"])
    rows = []
    for case in cases:
        agreement = case.get("agreement") or {}
        rows.append(
            [
                case["case"],
                *[f"{case['volumes_ml'][part]:.2f}" for part in classes],
                *[_number(value) for value in (case.get("entropy"), *[agreement.get(part) for part in classes])],
                ", ".join(case["flags"]) or NONE,
            ]
        )
    header = ["scan", *[f"{part} (mL)" for part in classes], "entropy"]
    return Table(f"Each scan by {name}", [*header, *[f"agreement, {part}" for part in classes], "flags"], rows)


def _read(folder: Path, case: str) -> dict[str, Any]:
    return json.loads((folder / f"{case}_seg.json").read_text(encoding="utf-8"))


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
