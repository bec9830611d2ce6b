"""The pictures of an inspection: a thumbnail of each scan at its labels, cases per site, measures per site."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from crossmoda.labels import COCHLEA, VS
from crossmoda.report.pictures import LINE_COLOURS, Volume, Window, roi_window, show

Record = dict[str, Any]

VS_COLOUR, COCHLEA_COLOUR, OUTLIER_COLOUR = "#ffd400", "#38c6ff", "#d6006c"
PANEL_INCHES = (1.8, 1.35)
ASPECT = PANEL_INCHES[0] / PANEL_INCHES[1]
CLOSE_UP_MM = (110.0, 110.0 / ASPECT)
BARE = "no site"
SITE_COLOURS = LINE_COLOURS[:1] + LINE_COLOURS[2:]  # without the red, which the rings of outliers are near to
LEAST_SPAN = 0.1  # of the middle: equal values are not to be spread over an axis of rounding errors

# Column, title, logarithmic
STRIPS = (
    ("spacing_x", "pixel size (mm)", False),
    ("spacing_z", "slice distance (mm)", False),
    ("size_z", "axial slices", False),
    ("q50", "median intensity", False),
    ("q99", "99 % intensity", False),
    ("snr", "signal-to-noise ratio", False),
    ("vs_ml", "VS (mL)", True),
    ("cochlea_ml", "both cochleae (mL)", False),
    ("vs_from_centre_mm", "VS from the volume's centre (mm)", False),
)


def thumbnail(scan: Volume, label: Volume | None) -> bytes:
    """A JPEG of two panels: the axial slice with the most VS, close up, and a coronal one, whole.

    Without labels: the middle axial and coronal slices, whole. The VS is outlined in the slice; the cochleae, which
    lie in other slices, as they look through the volume.

    Args:
        scan: in RAS.
        label: on the scan's grid, classes of `crossmoda.labels`.
    """
    figure = Figure(figsize=(2 * PANEL_INCHES[0], PANEL_INCHES[1]), dpi=125, facecolor="black")
    FigureCanvasAgg(figure)
    labelled = label is not None and bool(label.array.any())
    for panel, axes_order in enumerate(((0, 1, 2), (0, 2, 1))):
        turned = _permuted(scan, axes_order)
        window, outlines = _whole(turned, turned.array.shape[2] // 2), []
        if labelled:
            classes = _permuted(label, axes_order)
            close = roi_window(classes, CLOSE_UP_MM)
            window = close if panel == 0 else _whole(turned, close.slice)
            tumour = classes.array[:, :, close.slice, None] == VS
            outlines = [(tumour, VS_COLOUR), ((classes.array == COCHLEA).any(axis=2, keepdims=True), COCHLEA_COLOUR)]
        axes = figure.add_axes((panel / 2, 0, 0.5, 1))
        # The slice alone: `show` looks at the whole array for the background's value.
        single = Volume(turned.array[:, :, window.slice, None], turned.spacing)
        show(axes, single, Window(0, window.centre, window.size), outlines)
    content = BytesIO()
    figure.savefig(
        content, format="jpeg", facecolor="black", pil_kwargs={"quality": 78, "subsampling": 0}
    )  # keeps outlines sharp
    return content.getvalue()


def site_figure(records: Sequence[Record]) -> Figure:
    """Number of cases of each site in each section."""
    sections, sites = _sections(records), _sites(records)
    counts = Counter((record["section"], record["site"] or BARE) for record in records)
    figure, axes = _single(6.5, 0.7 + 0.28 * len(sections) * (len(sites) + 1))
    ticks = []
    for row, section in enumerate(sections):
        for place, site in enumerate(sites):
            y = row * (len(sites) + 1) + place
            count = counts[section, site]
            axes.barh(y, count, color=SITE_COLOURS[place % len(SITE_COLOURS)], height=0.85)
            axes.text(count, y, f" {count} {site}", va="center", fontsize=8)
        ticks.append(row * (len(sites) + 1) + (len(sites) - 1) / 2)
    axes.set_yticks(ticks, sections, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(counts.values()))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("cases", fontsize=9)
    _tidy(axes)
    return figure


def strip_figure(records: Sequence[Record]) -> Figure:
    """Every scan as a point, per section and site, in each of `STRIPS`; outliers are ringed."""
    strips = [strip for strip in STRIPS if any(record.get(strip[0]) is not None for record in records)]
    rows = list(dict.fromkeys((record["section"], record["site"] or BARE) for record in records))
    rows.sort(key=lambda row: (_sections(records).index(row[0]), row[1]))
    sites, columns = _sites(records), 3
    lines = math.ceil(len(strips) / columns)
    figure = Figure(figsize=(11, lines * (0.75 + 0.26 * len(rows)) + 0.3), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, (key, title, logarithmic) in zip(grid.flat, strips, strict=False):
        for place, row in enumerate(rows):
            own = [record for record in records if (record["section"], record["site"] or BARE) == row]
            own = [record for record in own if _drawable(record, key, logarithmic)]
            _strip(axes, own, key, place, SITE_COLOURS[sites.index(row[1]) % len(SITE_COLOURS)])
        axes.set_title(title, fontsize=9)
        _scale(axes, [record[key] for record in records if _drawable(record, key, logarithmic)], logarithmic)
        axes.set_yticks(range(len(rows)), [f"{section}, {site}" for section, site in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _tidy(axes)
    for axes in grid.flat[len(strips) :]:
        axes.set_axis_off()
    ring = Line2D([], [], ls="", marker="o", mfc="none", mec=OUTLIER_COLOUR, mew=1.4, label="outlier, for any reason")
    figure.legend(handles=[ring], loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _strip(axes: Axes, records: Sequence[Record], key: str, place: int, colour: str) -> None:
    """One row of points; equal values are spread up and down in a fixed order."""
    values = [record[key] for record in records]
    # even, and the same in every run
    heights = [place + 0.3 * math.sin(2.4 * index) for index in range(len(records))]
    axes.scatter(values, heights, s=13, color=colour, alpha=0.65, linewidths=0)
    ringed = [index for index, record in enumerate(records) if record["outlier"]]
    axes.scatter(
        [values[index] for index in ringed],
        [heights[index] for index in ringed],
        **{"s": 34, "facecolors": "none", "edgecolors": OUTLIER_COLOUR, "linewidths": 1.2},
    )


def _drawable(record: Record, key: str, logarithmic: bool) -> bool:
    value = record.get(key)
    return value is not None and (value > 0 or not logarithmic)


def _scale(axes: Axes, values: Sequence[float], logarithmic: bool) -> None:
    """Limits with a margin, and few ticks in plain numbers."""
    if not values:
        return
    low, high = min(values), max(values)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return
    middle = (low + high) / 2
    half = max(0.55 * (high - low), LEAST_SPAN / 2 * abs(middle), 1e-9)
    axes.set_xlim(middle - half, middle + half)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="x", useOffset=False)


def _permuted(volume: Volume, order: tuple[int, int, int]) -> Volume:
    return Volume(np.transpose(volume.array, order), tuple(volume.spacing[axis] for axis in order))


def _whole(volume: Volume, index: int) -> Window:
    """A window of the panels' shape around a whole slice."""
    shape = volume.array.shape
    width, height = (shape[axis] * volume.spacing[axis] for axis in (0, 1))
    width = max(width, height * ASPECT)
    return Window(index, ((shape[0] - 1) / 2, (shape[1] - 1) / 2), (width, width / ASPECT))


def _sections(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["section"] for record in records))


def _sites(records: Sequence[Record]) -> list[str]:
    return sorted({record["site"] or BARE for record in records})


def _single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _tidy(axes: Axes) -> None:
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
