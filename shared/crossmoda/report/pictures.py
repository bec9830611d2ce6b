"""The pictures of a report: overlays, translations beside real scans, loss curves. Drawn without a display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossmoda.labels import COCHLEA, VS

TRUTH_COLOUR, PREDICTION_COLOUR = "#ffd400", "#ff2e88"
LINE_COLOURS = ("#1f6fb2", "#d1495b", "#2e8b57", "#8e5ea2", "#e08e1b", "#3a9ca6", "#7a6a53", "#5b5b5b")


@dataclass(frozen=True)
class Volume:
    """A volume in RAS.

    Attributes:
        array: shape (X, Y, Z).
        spacing: mm.
    """

    array: np.ndarray
    spacing: tuple[float, ...]

    @classmethod
    def load(cls, path: str | Path) -> Volume:
        """Read a file and turn it to the nearest RAS orientation."""
        image = nib.as_closest_canonical(nib.load(path))
        return cls(np.asanyarray(image.dataobj), tuple(float(edge) for edge in image.header.get_zooms()[:3]))

    def mapped(self, mapping: Mapping[int, int]) -> Volume:
        """A label map in other classes; what `mapping` lacks becomes background."""
        array = np.zeros(self.array.shape, np.uint8)
        for label, target in mapping.items():
            array[self.array == label] = target
        return Volume(array, self.spacing)


@dataclass(frozen=True)
class Window:
    """Part of an axial slice.

    Attributes:
        slice: index along z.
        centre: voxel (x, y).
        size: edges in mm (x, y).
    """

    slice: int
    centre: tuple[float, float]
    size: tuple[float, float]


def window_on(label: Volume, classes: Sequence[int], size: float, margin: float = 12.0) -> Window:
    """A square window on the slice where classes are largest, around the largest of their parts in it.

    Args:
        label: truth, label map.
        classes: class numbers to look at.
        size: least edge in mm.
        margin: least distance in mm between the structure and the window's edge.

    Returns:
        The window; the middle of the volume if no such voxel exists.
    """
    mask = np.isin(label.array, classes)
    if not mask.any():
        middle = [edge / 2 for edge in mask.shape]
        return Window(mask.shape[2] // 2, (middle[0], middle[1]), (size, size))
    index = int(mask.sum(axis=(0, 1)).argmax())
    x, y = np.nonzero(mask[:, :, index])
    # Both sides have a cochlea: take the side with more of it.
    side = x > mask.shape[0] / 2
    if COCHLEA in classes and 0 < side.sum() < side.size:
        keep = side if side.sum() * 2 >= side.size else ~side
        x, y = x[keep], y[keep]
    extent = max(np.ptp(x) * label.spacing[0], np.ptp(y) * label.spacing[1]) + 2 * margin
    edge = max(size, float(extent))
    return Window(index, ((x.min() + x.max()) / 2, (y.min() + y.max()) / 2), (edge, edge))


def roi_window(label: Volume, size: tuple[float, float] = (110.0, 82.0)) -> Window:
    """A window around all labelled structures, both sides, on the slice with the most VS (else the most label)."""
    mask = label.array > 0
    if not mask.any():
        return Window(mask.shape[2] // 2, (mask.shape[0] / 2, mask.shape[1] / 2), size)
    tumour = label.array == VS
    index = int((tumour if tumour.any() else mask).sum(axis=(0, 1)).argmax())
    x, y, _ = np.nonzero(mask)
    return Window(index, ((x.min() + x.max()) / 2, (y.min() + y.max()) / 2), size)


def show(axes: Axes, volume: Volume, window: Window, outlines: Sequence[tuple[np.ndarray, str]] = ()) -> None:
    """Draw a window as radiologists see it: anterior up, the patient's left on the right.

    Args:
        axes: where.
        volume: the scan.
        window: which part of it.
        outlines: boolean masks of the scan's shape, and the colour of their outline.
    """
    index = min(window.slice, volume.array.shape[2] - 1)
    image = volume.array[:, :, index].astype(np.float32)
    low, high = _grey_levels(volume, window, index)
    half = [edge / 2 / step for edge, step in zip(window.size, volume.spacing[:2], strict=True)]
    aspect = volume.spacing[1] / volume.spacing[0]
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
    for mask, colour in outlines:
        if mask[:, :, index].any():
            axes.contour(mask[:, :, index].T.astype(float), levels=[0.5], colors=colour, linewidths=1.1)
    axes.set_xlim(window.centre[0] + half[0], window.centre[0] - half[0])  # x grows to the patient's right
    axes.set_ylim(window.centre[1] - half[1], window.centre[1] + half[1])
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _grey_levels(volume: Volume, window: Window, index: int, least: float = 80.0) -> tuple[float, float]:
    """Black and white from the tissue around the window, at least `least` mm wide, so that no far fat sets them."""
    box = []
    for axis in (0, 1):
        half = max(window.size[axis], least) / 2 / volume.spacing[axis]
        start = int(np.clip(window.centre[axis] - half, 0, volume.array.shape[axis] - 1))
        box.append(slice(start, max(int(window.centre[axis] + half), start + 1)))
    region = volume.array[box[0], box[1], index]
    # Beyond the region that was translated or scanned, volumes are filled with their least value.
    tissue = region[region > volume.array.min()]
    low, high = np.percentile(tissue if tissue.size else region, (1, 99.7))
    return float(low), max(float(high), float(low) + 1e-6)


def overlay_figure(
    cases: Sequence[tuple[str, Volume, Volume, Mapping[str, Volume]]],
    target_class: int,
    size: float,
    captions: Mapping[tuple[int, str], str],
) -> Figure:
    """Truth and predictions on the scans: a row a case, the scan alone first, then a column a system.

    Args:
        cases: title of the row, scan, truth, and prediction per system.
        target_class: the class that the windows are on; outlines are of this class alone.
        size: least edge of the windows in mm.
        captions: text under a panel, by row and system.
    """
    systems = list(cases[0][3])
    figure, grid = _grid(len(cases), 1 + len(systems), 2.5, 2.75)
    for row, (title, scan, truth, predictions) in enumerate(cases):
        window = window_on(truth, (target_class,), size)
        truth_outline = (truth.array == target_class, TRUTH_COLOUR)
        show(grid[row][0], scan, window)
        grid[row][0].set_ylabel(title, fontsize=9)
        if row == 0:
            grid[row][0].set_title("hrT2", fontsize=10)
        for column, name in enumerate(systems, start=1):
            outlines = [truth_outline, (predictions[name].array == target_class, PREDICTION_COLOUR)]
            show(grid[row][column], scan, window, outlines)
            grid[row][column].set_xlabel(captions.get((row, name), ""), fontsize=9)
            if row == 0:
                grid[row][column].set_title(name, fontsize=10)
    handles = [Line2D([], [], color=TRUTH_COLOUR, label="truth"), Line2D([], [], color=PREDICTION_COLOUR)]
    handles[1].set_label("prediction")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def translation_figure(rows: Mapping[str, Sequence[tuple[str, Volume, Window, np.ndarray | None]]]) -> Figure:
    """Translations between what they were made of and what they should look like: a row a kind, a column a case.

    Args:
        rows: per kind (ceT1, each translator, real hrT2) for each column the case's name, the scan, its window and,
            if wanted, a mask to outline.
    """
    columns = max(map(len, rows.values()))
    figure, grid = _grid(len(rows), columns, 3.2, 2.5)
    for row, (kind, panels) in enumerate(rows.items()):
        for column, (case, volume, window, mask) in enumerate(panels):
            axes = grid[row][column]
            show(axes, volume, window, [] if mask is None else [(mask, TRUTH_COLOUR)])
            if case:
                axes.set_title(case, fontsize=8)
            if column == 0:
                axes.set_ylabel(kind, fontsize=10)
        for axes in grid[row][len(panels) :]:
            axes.set_axis_off()
    return figure


def history_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Curves over the epochs: losses above, validation metrics below, a column a run.

    Args:
        histories: rows of `history.csv` per run.
    """
    figure, grid = _grid(2, len(histories), 3.4, 2.6)
    for column, (name, rows) in enumerate(histories.items()):
        names = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
        _curves(grid[0][column], rows, [key for key in names if not key.startswith("val_")])
        _curves(grid[1][column], rows, [key for key in names if key.startswith("val_")])
        grid[0][column].set_title(name, fontsize=10)
        grid[1][column].set_xlabel("epoch", fontsize=9)
    grid[0][0].set_ylabel("losses", fontsize=9)
    grid[1][0].set_ylabel("validation", fontsize=9)
    return figure


def _curves(axes: Axes, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    if not names:
        axes.set_axis_off()
        return
    values = [row[name] for row in rows for name in names if name in row and math.isfinite(row[name])]
    for name, colour in zip(names, [LINE_COLOURS[i % len(LINE_COLOURS)] for i in range(len(names))], strict=True):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        marker = "." if len(points) < 25 else ""
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, lw=1.3, label=name.removeprefix("val_"))
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    # A Figure of its own rather than pyplot's: no global state, no display, nothing to close.
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
