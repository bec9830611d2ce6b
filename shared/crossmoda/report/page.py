"""One self-contained HTML page that judges a set of systems."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from crossmoda.data import check_same_grid, label_map, load_datalist, replacing, write_text
from crossmoda.engines.history import read_history
from crossmoda.errors import InputError
from crossmoda.labels import COCHLEA, MERGE_2023, VS
from crossmoda.metrics import has_parts, read_metrics
from crossmoda.provenance import git_revision, versions
from crossmoda.report import tables
from crossmoda.report.pictures import (
    Volume,
    history_figure,
    overlay_figure,
    roi_window,
    translation_figure,
)
from crossmoda.report.translations import translation_table

Item = dict[str, Any]


@dataclass
class ReportInput:
    """What a report is made of.

    Attributes:
        systems: folder per system, in the order of the tables; holds `metrics.csv` and `<case>_seg.nii.gz`, itself
            or in `predictions`; `history.csv` in it or beside it is drawn too.
        source_only: name of the lower bound among the systems.
        oracle: name of the upper bound.
        translations: folder per translator; holds `<case>_hrT2.nii.gz`, itself or in `volumes`.
        data_list: datalist with the truth; None leaves out the pictures of scans.
        section: the section that was evaluated.
        focus: the system whose best, median and worst cases are shown; None takes the best that is no bound.
        title: of the page.
        note: a sentence for the top, e.g. that the numbers are from a phantom.
        facts: further facts about the run, e.g. the seed.
        tables: further tables, of grades or rounds.
        links: address by text, e.g. of the case reports; relative to the page.
    """

    systems: Mapping[str, str | Path]
    source_only: str | None = None
    oracle: str | None = None
    translations: Mapping[str, str | Path] = field(default_factory=dict)
    data_list: str | Path | None = None
    section: str = "target_validation"
    focus: str | None = None
    title: str = "crossmoda report"
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[tables.Table] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def write_report(report: ReportInput, output_dir: str | Path) -> str:
    """Write `index.html`, `results.md`, `results.json` and the pictures as PNG files.

    Args:
        report: what to show.
        output_dir: where to write.

    Returns:
        The main table as text for the terminal.

    Raises:
        InputError: if a folder lacks its metrics or predictions, a system's name is unknown, or the systems were
            measured on other cases.
    """
    if not report.systems:
        raise InputError("a report needs at least one system: give --system NAME=DIR")
    folders = {name: folder_with(folder, "metrics.csv") for name, folder in report.systems.items()}
    rows = {name: read_metrics(folder / "metrics.csv") for name, folder in folders.items()}
    results = tables.compare(rows, report.source_only, report.oracle)
    focus = report.focus or _best_system(results)
    if focus not in rows:
        raise InputError(f"'{focus}' is none of the systems {', '.join(rows)}: correct --focus")
    facts = run_facts(report)
    results |= {"focus": focus, "note": report.note, "facts": facts}
    figures = _figures(report, folders, rows, focus)
    main = tables.main_table(results)
    others = [
        tables.median_table(results),
        tables.part_table(results),
        tables.site_table(results),
        tables.grade_table(rows),
        tables.comparison_table(results),
        translation_table(
            {name: volumes_folder(folder) for name, folder in report.translations.items()},
            {name: training_history(folder) for name, folder in report.translations.items()},
        ),
    ]
    others = [table for table in others if table is not None]
    write_files(report, focus, (main, *others), figures, results, output_dir)
    return main.text()


def write_files(
    report: ReportInput,
    focus: str,
    found: Sequence[tables.Table],
    figures: Mapping[str, Figure],
    results: Mapping[str, Any],
    output_dir: str | Path,
) -> None:
    """Write a report's files.

    Args:
        report: what it is of.
        focus: the system that stands out.
        found: the main table, then the others.
        figures: by name, as the page's template knows them.
        results: numbers for `results.json`, `facts` among them.
        output_dir: where to write.
    """
    pictures = {name: png_bytes(figure) for name, figure in figures.items()}
    output_dir = Path(output_dir)
    for name, content in pictures.items():
        with replacing(output_dir / "pictures" / f"{name}.png") as temporary:
            temporary.write_bytes(content)
    found = [*found, *report.tables]
    markdown = "\n\n".join([report.note, *[table.markdown() for table in found]]).strip()
    write_text(markdown + "\n", output_dir / "results.md")
    write_text(json.dumps(results, indent=1) + "\n", output_dir / "results.json")
    main, *others = found
    write_text(render_html(report, focus, main, others, pictures, results["facts"]), output_dir / "index.html")


def run_facts(report: ReportInput) -> dict[str, str]:
    """When and with what a report was made."""
    made = {"made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "git revision": git_revision()}
    return {**made, **versions(), **report.facts}


def render_html(
    report: ReportInput,
    focus: str,
    main: tables.Table,
    others: Sequence[tables.Table],
    pictures: Mapping[str, bytes],
    facts: Mapping[str, str],
) -> str:
    """The page: main table, further tables, pictures by name, facts."""
    environment = Environment(
        loader=PackageLoader("crossmoda.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        report=report,
        focus=focus,
        main=main,
        others=others,
        pictures={name: base64.b64encode(content).decode("ascii") for name, content in pictures.items()},
        facts=facts,
    )


def _figures(
    report: ReportInput, folders: Mapping[str, Path], rows: Mapping[str, tables.Rows], focus: str
) -> dict[str, Figure]:
    figures = {}
    if report.data_list is not None:
        items = load_datalist(report.data_list, report.section, require_label=True, check="header", progress=False)
        cases, captions = _overlay_cases(items, label_map(report.data_list), folders, rows, focus)
        figures["overlays_VS"] = overlay_figure(cases, VS, 40.0, captions["VS"])
        figures["overlays_cochlea"] = overlay_figure(cases, COCHLEA, 26.0, captions["cochlea"])
        if report.translations:
            figures["translations"] = translation_figure(translation_panels(report))
    return figures | curves(report)


def curves(report: ReportInput) -> dict[str, Figure]:
    """Losses and scores of the trainings over the epochs, where they are known."""
    figures = {}
    for name, folders_of in (("curves_translators", report.translations), ("curves_segmenters", report.systems)):
        paths = {run: training_history(folder) for run, folder in folders_of.items()}
        histories = {run: read_history(path) for run, path in paths.items() if path}
        if histories:
            figures[name] = history_figure(histories)
    return figures


def _overlay_cases(
    items: Sequence[Item],
    truth_map: Mapping[int, int],
    folders: Mapping[str, Path],
    rows: Mapping[str, tables.Rows],
    focus: str,
) -> tuple[list, dict[str, dict]]:
    """Best, median and worst case of the focus system, and each panel's Dice."""
    by_case = {name: {row["case"]: row for row in table} for name, table in rows.items()}
    item_of = {item["case"]: item for item in items}

    def mean_dice(case: str) -> float:
        return float(np.mean([by_case[focus][case][f"dice_{name}"] for name in tables.CLASSES]))

    ranked = sorted(by_case[focus], key=mean_dice, reverse=True)
    chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    cases, captions = [], {name: {} for name in tables.CLASSES}
    for row, (rank, case) in enumerate(chosen.items()):
        if case not in item_of:
            raise InputError(f"case {case} was evaluated but is not in the data list: give the list that was evaluated")
        predictions = {}
        for name, folder in folders.items():
            path = folder / f"{case}_seg.nii.gz"
            check_same_grid(path, item_of[case]["image"])
            predictions[name] = merged_prediction(Volume.load(path), by_case[name][case])
            for part in tables.CLASSES:
                captions[part][row, name] = f"Dice {by_case[name][case][f'dice_{part}']:.2f}"
        scan, truth = Volume.load(item_of[case]["image"]), Volume.load(item_of[case]["label"]).mapped(truth_map)
        cases.append((f"{rank}: {case}", scan, truth, predictions))
    return cases, captions


def merged_prediction(prediction: Volume, row: Mapping[str, Any]) -> Volume:
    """A prediction of VS and cochlea, whether or not its network divides the tumour into parts."""
    divided = has_parts(row) or prediction.array.max() > COCHLEA
    return prediction.mapped(MERGE_2023) if divided else prediction


def translation_panels(report: ReportInput, columns: int = 3) -> dict[str, list]:
    """Source cases from all sites by turns; the same cases from each translator; real scans of the same sites."""
    sources = load_datalist(report.data_list, "source_training", True, check="header", progress=False)
    targets = load_datalist(report.data_list, "target_training", check="header", progress=False)
    chosen = _by_turns(sources, columns)
    panels: dict[str, list] = {"ceT1": []}
    windows = {}
    for item in chosen:
        label = Volume.load(item["label"]).mapped(label_map(report.data_list))
        windows[item["case"]] = roi_window(label)
        panels["ceT1"].append((item["case"], Volume.load(item["image"]), windows[item["case"]], label.array > 0))
    for name, folder in report.translations.items():
        path_of = folder_with(folder, f"{chosen[0]['case']}_hrT2.nii.gz")
        kind = f"{name}\n(translated)"
        panels[kind] = []
        for item in chosen:
            volume = Volume.load(path_of / f"{item['case']}_hrT2.nii.gz")
            panels[kind].append(("", volume, windows[item["case"]], None))
    panels["real hrT2\n(other subjects)"] = []
    used: set[str] = set()
    for item in chosen:
        same_site = [target for target in targets if target["site"] == item["site"] and target["case"] not in used]
        target = (same_site or targets)[0]
        used.add(target["case"])
        label = Volume.load(target["label"] if "label" in target else target["image"])
        window = roi_window(label if "label" in target else Volume(np.zeros_like(label.array), label.spacing))
        panels["real hrT2\n(other subjects)"].append((target["case"], Volume.load(target["image"]), window, None))
    return panels


def _by_turns(items: Sequence[Item], count: int) -> list[Item]:
    """The first case of each site, then the second of each, and so on."""
    place: dict[str, int] = {}
    ranked = []
    for item in items:
        place[item["site"]] = place.get(item["site"], -1) + 1
        ranked.append((place[item["site"]], item["site"], item))
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def _best_system(results: Mapping[str, Any]) -> str:
    systems = results["systems"]
    candidates = [name for name in systems if name not in (results["source_only"], results["oracle"])] or list(systems)
    return max(candidates, key=lambda name: systems[name]["all"]["dice"]["mean"]["mean"])


def folder_with(folder: str | Path, name: str) -> Path:
    """The folder, or the one in it where results are put, that holds a file."""
    folder = Path(folder).absolute()
    for candidate in (folder, folder / "predictions", folder / "volumes"):
        if (candidate / name).is_file():
            return candidate
    raise InputError(f"{folder} has no {name} (nor in predictions or volumes): run that stage first")


def volumes_folder(folder: str | Path) -> Path:
    """The folder of a translator's volumes."""
    return Path(folder) / "volumes" if (Path(folder) / "volumes").is_dir() else Path(folder)


def training_history(folder: str | Path) -> Path | None:
    """`history.csv` of the training that a folder belongs to."""
    for candidate in (Path(folder), Path(folder).absolute().parent):
        if (candidate / "history.csv").is_file():
            return candidate / "history.csv"
    return None


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
