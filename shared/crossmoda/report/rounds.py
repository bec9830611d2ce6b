"""The page of a self-training round: what was kept, what was rejected and why, what changed."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossmoda.data import replacing, write_text
from crossmoda.labels import COCHLEA, IGNORE, VS
from crossmoda.postprocessing import Classes
from crossmoda.report.pictures import PREDICTION_COLOUR, TRUTH_COLOUR, Volume, _grid, show, window_on
from crossmoda.report.tables import Table

PICTURES = 6  # cases a figure
VS_COLOUR, COCHLEA_COLOUR, IGNORED_COLOUR = PREDICTION_COLOUR, TRUTH_COLOUR, "#2fb6e0"
SIZES = {VS: 40.0, COCHLEA: 26.0}  # least edge of the windows in mm

Item = Mapping[str, Any]


def write_round_page(
    folder: Path, items: Sequence[Item], before: Path | None, classes: Classes, written: Classes | None = None
) -> None:
    """Write `index.html` and its pictures as PNG files.

    Args:
        folder: of the round: `metrics.json`, `fused` (but if no case was kept), and from round 1 on `scores.csv` and
            `pseudo_labels`.
        items: the target cases, {case, image}.
        before: folder of the label maps of the round before; None in round 0.
        classes: of the networks.
        written: of the files with pseudo-labels; None if they are the networks'.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    images = {item["case"]: item["image"] for item in items}
    rows = _read_rows(folder / "scores.csv")
    figures: dict[str, Figure] = {}
    for name, wanted in (("kept", "yes"), ("rejected", "no")):
        cases = [row["case"] for row in rows if row["kept"] == wanted]
        if cases:
            figures[name] = _label_figure(_spread(cases), images, folder / "pseudo_labels", written or classes)
    changed = metrics.get("agreement_of_cases", {})
    if before is not None and changed:
        ranked = sorted(changed, key=lambda case: changed[case]["mean"])[:PICTURES]
        figures["changed"] = _change_figure(ranked, images, (before, folder / "fused"), classes, changed)
    if not figures:
        figures["predicted"] = _label_figure(_spread(list(images)), images, folder / "fused", classes, suffix="seg")
    pictures = {name: _png(figure) for name, figure in figures.items()}
    for name, content in pictures.items():
        with replacing(folder / "pictures" / f"{name}.png") as temporary:
            temporary.write_bytes(content)
    environment = Environment(
        loader=PackageLoader("crossmoda.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("rounds.html.jinja").render(
        number=metrics["round"],
        facts=_facts(metrics),
        scores=_score_table(rows),
        pictures={name: base64.b64encode(content).decode("ascii") for name, content in pictures.items()},
    )
    write_text(page, folder / "index.html")


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    facts = {"networks": ", ".join(metrics["networks"]) or "none", "target cases": str(metrics["cases"])}
    if "kept" in metrics:
        facts["kept"] = f"{metrics['kept']} ({metrics['kept_share']:.0%})"
    if "plausible_share" in metrics:
        facts["plausible"] = f"{metrics['plausible_share']:.0%} of the predictions"
    for name, text in (("agreement", "agreement with the round before"), ("source_dice", "source-validation Dice")):
        if metrics.get(name):
            facts[text] = ", ".join(f"{key} {value:.3f}" for key, value in metrics[name].items())
    return facts


def _score_table(rows: Sequence[Mapping[str, str]]) -> Table | None:
    if not rows:
        return None
    header = [name for name in rows[0] if name != "reason"] + ["reason"]
    ranked = sorted(rows, key=lambda row: (row["kept"] == "yes", row["case"]))
    cells = [[_short(row[name]) for name in header] for row in ranked]
    return Table("Every target case's scores, rejected ones first", [name.replace("_", " ") for name in header], cells)


def _short(text: str) -> str:
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def _spread(cases: Sequence[str]) -> list[str]:
    """At most `PICTURES` of the cases, evenly from all of them."""
    places = np.linspace(0, len(cases) - 1, min(PICTURES, len(cases))).round().astype(int)
    return [cases[place] for place in dict.fromkeys(places.tolist())]


def _label_figure(
    cases: Sequence[str], images: Mapping[str, str], folder: Path, classes: Classes, suffix: str = "Label"
) -> Figure:
    """Label maps on the scans: a row a structure, a column a case."""
    figure, grid = _grid(2, len(cases), 2.4, 2.6)
    for column, case in enumerate(cases):
        scan, label = Volume.load(images[case]), Volume.load(folder / f"{case}_{suffix}.nii.gz")
        masks = _masks(label, classes)
        outlines = [(masks[VS], VS_COLOUR), (masks[COCHLEA], COCHLEA_COLOUR), (label.array == IGNORE, IGNORED_COLOUR)]
        for row, target in enumerate((VS, COCHLEA)):
            window = window_on(Volume(np.where(masks[target], target, 0), label.spacing), (target,), SIZES[target])
            show(grid[row][column], scan, window, outlines)
        grid[0][column].set_title(case, fontsize=7)
    colours = {"VS": VS_COLOUR, "cochlea": COCHLEA_COLOUR, "ignored": IGNORED_COLOUR}
    _legend(figure, colours if suffix == "Label" else {k: v for k, v in colours.items() if k != "ignored"})
    return figure


def _change_figure(
    cases: Sequence[str],
    images: Mapping[str, str],
    folders: tuple[Path, Path],
    classes: Classes,
    agreement: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Label maps of the round before and of this one: a row a structure, a column a case."""
    figure, grid = _grid(2, len(cases), 2.4, 2.6)
    for column, case in enumerate(cases):
        scan = Volume.load(images[case])
        labels = [Volume.load(folder / f"{case}_seg.nii.gz") for folder in folders]
        masks = [_masks(label, classes) for label in labels]
        for row, (target, name) in enumerate(((VS, "VS"), (COCHLEA, "cochlea"))):
            either = masks[0][target] | masks[1][target]
            window = window_on(Volume(np.where(either, target, 0), scan.spacing), (target,), SIZES[target])
            show(grid[row][column], scan, window, [(masks[0][target], TRUTH_COLOUR), (masks[1][target], VS_COLOUR)])
            grid[row][column].set_xlabel(f"{name}: Dice {agreement[case][name]:.2f}", fontsize=8)
        grid[0][column].set_title(case, fontsize=7)
    _legend(figure, {"round before": TRUTH_COLOUR, "this round": VS_COLOUR})
    return figure


def _masks(label: Volume, classes: Classes) -> dict[int, np.ndarray]:
    return {VS: np.isin(label.array, classes.tumour), COCHLEA: label.array == classes.cochlea}


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _png(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
