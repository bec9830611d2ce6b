"""The report of one patient's scan: overlays, sizes, growth, Koos grade, flags; as HTML and PDF."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from scipy import ndimage
from tqdm import tqdm

from crossmoda.data import check_same_grid, read_label, read_volume, write_text
from crossmoda.data.writing import replacing
from crossmoda.errors import InputError
from crossmoda.labels import COCHLEA, VS
from crossmoda.metrics.size import Growth, TumourSize, growth, tumour_size
from crossmoda.provenance import git_revision, versions
from crossmoda.report.case_pictures import PARTS, as_png, colour_key, draw_planes
from crossmoda.report.pictures import Volume

RESEARCH_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True)
class Study:
    """One scan with its segmentation.

    Attributes:
        scan: path of the image, 3D.
        label: path of its label map, on the same grid: 1 VS, 2 cochlea, or with `parts` 1 extra-meatal VS,
            2 intra-meatal VS, 3 cochlea.
        date: of the scan; None if it is not known.
        parts: whether the label divides the tumour.
    """

    scan: Path
    label: Path
    date: date | None = None
    parts: bool = False

    @property
    def tumour_labels(self) -> tuple[int, ...]:
        """Classes that together are the tumour."""
        return tuple(PARTS) if self.parts else (VS,)

    @property
    def cochlea_label(self) -> int:
        """Class of the cochlea."""
        return max(PARTS) + 1 if self.parts else COCHLEA


@dataclass
class CaseFindings:
    """What the report says; numbers in mm and mL.

    Attributes:
        case: name of the case.
        date: of the scan.
        tumour: the tumour's size.
        cochlea_ml: volume of both cochleae.
        parts_ml: volumes of the tumour's extra- and intra-meatal part; empty if they are not segmented.
        flags: what a reader should know before relying on the numbers.
        koos: answer of the Koos grading: grade, probabilities, flags, features; None if there is none.
        prior: size and date of an earlier scan.
        growth: since then.
        sources: where the result comes from: model, data, versions.
    """

    case: str
    date: date | None
    tumour: TumourSize
    cochlea_ml: float
    parts_ml: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    koos: dict[str, Any] | None = None
    prior: tuple[date, TumourSize] | None = None
    growth: Growth | None = None
    sources: dict[str, str] = field(default_factory=dict)


def write_case_report(
    study: Study,
    output_dir: str | Path,
    koos: str | Path | None = None,
    prior: Study | None = None,
    sources: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Write `<case>_report.html`, which needs no other file, and `<case>_report.pdf`.

    Args:
        study: the scan; flags come from the `<case>_seg.json` beside its label, if there is one.
        output_dir: made if it is not there.
        koos: `<case>_koos.json` of the bundle `koos-classifier`.
        prior: an earlier scan of the same patient; both need dates.
        sources: what to name as the result's origin beside the versions, e.g. {"model": "run of 2026-05-01"}.

    Returns:
        Paths of the HTML and of the PDF file.

    Raises:
        InputError: if a file is missing or damaged, a label lies on another grid than its scan, or the dates are
            missing or not in order.
    """
    image, label = _load(study)
    findings = _findings(study, label, koos, sources or {})
    if prior is not None:
        _add_growth(findings, prior)
    overlays = draw_planes(image, label, study.tumour_labels, study.cochlea_label)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    page, sheet = (folder / f"{findings.case}_report.{ending}" for ending in ("html", "pdf"))
    tables = findings_tables(findings)
    environment = Environment(
        loader=PackageLoader("crossmoda.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("case.html.jinja")
    content = {"findings": findings, "tables": tables, "picture": as_png(overlays), "key": colour_key(study.parts)}
    write_text(template.render(content, warning=RESEARCH_ONLY), page)
    _write_pdf(findings, tables, overlays, study.parts, sheet)
    return page, sheet


def write_case_reports(
    items: Sequence[Mapping[str, Any]],
    labels_dir: str | Path,
    output_dir: str | Path,
    koos_dir: str | Path | None = None,
    parts: bool = False,
    sources: Mapping[str, str] | None = None,
    progress: bool = True,
) -> list[Path]:
    """The report of each of several scans.

    Args:
        items: of a data list, with `case` and `image`.
        labels_dir: folder with `<case>_seg.nii.gz`.
        output_dir: as for `write_case_report`.
        koos_dir: folder with `<case>_koos.json` of the scans that were graded.
        parts: as of `Study`.
        sources: as for `write_case_report`.
        progress: whether to show a bar.

    Returns:
        Paths of the HTML files.

    Raises:
        InputError: if a label map or all answers are missing; see `write_case_report`.
    """
    for item in items:  # none is written if one is missing
        path = Path(labels_dir) / f"{item['case']}_seg.nii.gz"
        if not path.is_file():
            raise InputError(f"{path} is missing: give the folder with the label maps of all scans")
    if koos_dir is not None and not any((Path(koos_dir) / f"{item['case']}_koos.json").is_file() for item in items):
        raise InputError(f"{koos_dir} has no <case>_koos.json of any scan: correct the folder, or leave it out")
    pages = []
    for item in tqdm(items, desc="case reports", disable=not progress):
        case = item["case"]
        answer = Path(koos_dir) / f"{case}_koos.json" if koos_dir is not None else None
        study = Study(Path(item["image"]), Path(labels_dir) / f"{case}_seg.nii.gz", parts=parts)
        koos = answer if answer is not None and answer.is_file() else None
        pages.append(write_case_report(study, output_dir, koos, sources=sources)[0])
    return pages


def findings_tables(findings: CaseFindings) -> dict[str, list[tuple[str, str]]]:
    """The findings as text: title of a table -> its rows of name and value. What is not known is left out."""
    size = findings.tumour
    tables = {
        "Size": [
            ("VS, volume", f"{size.volume_ml:.2f} mL ({size.volume_mm3:.0f} mm³)"),
            ("VS, largest axial diameter", f"{size.axial_diameter_mm:.1f} mm"),
            ("VS, largest diameter", f"{size.diameter_mm:.1f} mm"),
            *[
                (name, f"{volume:.2f} mL ({_share(volume, size.volume_ml)})")
                for name, volume in findings.parts_ml.items()
            ],
            ("both cochleae, volume", f"{findings.cochlea_ml:.3f} mL ({1000 * findings.cochlea_ml:.0f} mm³)"),
        ]
    }
    if findings.growth is not None and findings.prior is not None:
        change, (day, earlier) = findings.growth, findings.prior
        doubling = change.doubling_years
        time = "no change" if math.isinf(doubling) else f"{abs(doubling):.1f} years"
        tables["Growth"] = [
            (f"VS on {day}", f"{earlier.volume_ml:.2f} mL, {earlier.axial_diameter_mm:.1f} mm axial"),
            ("time between the scans", f"{change.years:.2f} years"),
            ("largest axial diameter", f"{change.mm_a_year:+.1f} mm a year"),
            ("volume", f"{change.volume_percent:+.0f} %"),
            ("volume halving time" if doubling < 0 else "volume doubling time", time),
        ]
    if findings.koos is not None:
        tables["Koos grade"] = _koos_rows(findings.koos)
    tables["Please note"] = [("flag", flag) for flag in findings.flags] or [("flags", "none")]
    tables["Origin"] = list(findings.sources.items())
    return tables


def _load(study: Study) -> tuple[Volume, Volume]:
    read_volume(study.scan)
    allowed = tuple(range(256))  # further structures are passed over
    read_label(study.label, allowed)
    check_same_grid(study.label, study.scan)
    return Volume.load(study.scan), Volume.load(study.label)


def _findings(study: Study, label: Volume, koos: str | Path | None, sources: Mapping[str, str]) -> CaseFindings:
    voxel_ml = math.prod(label.spacing) / 1000
    parts = {name: float((label.array == part).sum()) * voxel_ml for part, name in PARTS.items()} if study.parts else {}
    name = Path(study.label).name.removesuffix(".gz").removesuffix(".nii")
    case = name.removesuffix("_seg")
    beside = Path(study.label).with_name(f"{case}_seg.json")
    flags = _flags(_read_json(beside)) if beside.is_file() else []
    answer = _read_json(koos) if koos is not None else None
    if answer is not None:
        flags += [f"Koos: {flag}" for flag in answer.get("flags", [])]
    mask = np.isin(label.array, study.tumour_labels)
    if not mask.any() and "empty VS" not in flags:
        flags.append("empty VS")
    pieces = _component_sizes(mask)
    if len(pieces) > 1:
        flags.append(f"VS in {len(pieces)} pieces, {_share(pieces[0], sum(pieces))} in the largest: sizes are of all")
    origin = {
        "scan": Path(study.scan).name,
        "label": Path(study.label).name,
        **sources,
        "code": f"crossmoda {git_revision()[:12]}",
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
    }
    size = tumour_size(mask, label.spacing)
    cochlea = float((label.array == study.cochlea_label).sum()) * voxel_ml
    return CaseFindings(case, study.date, size, cochlea, parts, flags, answer, sources=origin)


def _flags(report: Mapping[str, Any]) -> list[str]:
    """The flags of a `<case>_seg.json` in words, with the features in which the scan is unlike the training's."""
    features = ", ".join(report.get("unlike_training") or {})
    texts = {"unlike_training": f"unlike_training: {features}"} if features else {}
    return [texts.get(flag, str(flag)).replace("_", " ") for flag in report.get("flags", [])]


def _add_growth(findings: CaseFindings, prior: Study) -> None:
    if findings.date is None or prior.date is None:
        raise InputError("growth needs the dates of both scans: give --date and --prior_date, e.g. 2026-01-31")
    _, label = _load(prior)
    size = tumour_size(np.isin(label.array, prior.tumour_labels), label.spacing)
    try:
        findings.growth = growth(size, findings.tumour, (findings.date - prior.date).days)
    except ValueError as error:
        raise InputError(f"{prior.label} ({prior.date}) and {findings.case} ({findings.date}): {error}") from None
    findings.prior = prior.date, size
    findings.sources["earlier scan"] = f"{Path(prior.scan).name}, {Path(prior.label).name}"


def _koos_rows(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    grade = answer.get("grade")
    rows = [("grade", "none given" if grade is None else str(grade))]
    if answer.get("probabilities"):
        rows.append(
            ("probabilities", ", ".join(f"{name}: {value:.2f}" for name, value in answer["probabilities"].items()))
        )
    features = answer.get("features") or {}
    return rows + [(name.replace("_", " "), f"{value:.2f}") for name, value in features.items() if value is not None]


def _component_sizes(mask: np.ndarray) -> list[int]:
    """Voxels of each connected part (26 neighbours), largest first."""
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    return sorted(np.bincount(parts.ravel())[1:].tolist(), reverse=True)


def _read_json(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is missing or no JSON file: make it again, or leave it out") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is no report of a case: make it again, or leave it out")
    return content


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _write_pdf(
    findings: CaseFindings, tables: Mapping[str, Sequence[tuple[str, str]]], overlays: Figure, parts: bool, path: Path
) -> None:
    """A4 pages: the pictures on the first, the tables below them and on as many more as they need."""
    first = _sheet(findings)
    axes = first.add_axes((0.06, 0.7, 0.88, 0.22))
    overlays.canvas.draw()
    axes.imshow(np.asarray(overlays.canvas.buffer_rgba()))
    axes.axis("off")
    for place, (name, colour) in enumerate(colour_key(parts)):
        first.text(0.08 + 0.2 * place, 0.685, f"— {name}", fontsize=8.5, color=colour)
    sheets, height = [first], 0.65
    for title, rows in tables.items():
        lines = [(name, textwrap.wrap(value, 70) or [""]) for name, value in rows]
        if height - 0.0165 * (1 + sum(len(texts) for _, texts in lines)) < 0.05 and height < 0.9:
            sheets.append(_sheet(findings))
            height = 0.9
        sheets[-1].text(0.08, height, title, fontsize=11, weight="bold")
        for name, texts in lines:
            sheets[-1].text(0.09, height - 0.0165, name, fontsize=8.5, color="#444444")
            for text in texts:
                height -= 0.0165
                sheets[-1].text(0.42, height, text, fontsize=8.5)
        height -= 0.032
    with replacing(path) as unfinished, PdfPages(unfinished) as pages:
        for sheet in sheets:
            pages.savefig(sheet)


def _sheet(findings: CaseFindings) -> Figure:
    figure = Figure(figsize=(8.27, 11.69))  # A4, inches
    figure.text(0.08, 0.95, f"Case report: {findings.case}", fontsize=17, weight="bold")
    when = f"Scan of {findings.date}" if findings.date else "Date of the scan not given"
    figure.text(0.08, 0.93, f"{when}. {RESEARCH_ONLY}", fontsize=8.5, color="#8a1c1c")
    return figure
