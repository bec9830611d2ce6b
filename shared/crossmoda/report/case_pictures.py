"""The pictures of one patient's report: outlines of tumour and cochlea in three planes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossmoda.labels import LABELS_2023
from crossmoda.report.pictures import Volume

TUMOUR_COLOUR, INTRA_COLOUR, COCHLEA_COLOUR = "#ff2e88", "#ff9f1c", "#2ec4ff"
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # axis across each plane, in RAS
WINDOW_MM = 70.0  # edge of the pictures
PARTS = {number: name for number, name in LABELS_2023.items() if "VS" in name}


def colour_key(parts: bool) -> list[tuple[str, str]]:
    """What the outlines' colours mean: names and colours; `parts` as in `Study`."""
    tumour = zip(PARTS.values(), (TUMOUR_COLOUR, INTRA_COLOUR), strict=True) if parts else [("VS", TUMOUR_COLOUR)]
    return [*tumour, ("cochlea", COCHLEA_COLOUR)]


def draw_planes(image: Volume, label: Volume, tumour: Sequence[int], cochlea: int) -> Figure:
    """Outlines of tumour and cochlea in three planes through the tumour, or through the cochleae if there is none.

    Args:
        image: the scan, RAS.
        label: its label map.
        tumour: its classes; the second, if any, is drawn in another colour.
        cochlea: its class.
    """
    mask = np.isin(label.array, tumour)
    centre = _centre(mask if mask.any() else label.array == cochlea)
    colours = dict(
        zip((*tumour, cochlea), [*(TUMOUR_COLOUR, INTRA_COLOUR)[: len(tumour)], COCHLEA_COLOUR], strict=True)
    )
    figure = Figure(figsize=(10.5, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, axis) in zip(figure.subplots(1, 3), PLANES.items(), strict=True):
        _draw_plane(axes, image, label, axis, centre, colours)
        axes.set_title(name, fontsize=10)
    return figure


def as_png(figure: Figure) -> str:
    """A PNG as base64 text, for a page that needs no other file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return base64.b64encode(content.getvalue()).decode("ascii")


def _centre(mask: np.ndarray) -> tuple[int, int, int]:
    if not mask.any():
        return tuple(edge // 2 for edge in mask.shape)
    # The slice of each plane with most of the structure.
    axes = range(3)
    return tuple(int(mask.sum(axis=tuple(other for other in axes if other != axis)).argmax()) for axis in axes)


def _draw_plane(
    axes: Axes, image: Volume, label: Volume, axis: int, centre: tuple[int, int, int], colours: Mapping[int, str]
) -> None:
    """As radiologists see it: the patient's right on the left, anterior or superior up, the front on the left."""
    across = [other for other in range(3) if other != axis]
    plane, labels = (volume.array.take(centre[axis], axis).T for volume in (image, label))
    step = [image.spacing[other] for other in across]
    half = [WINDOW_MM / 2 / edge for edge in step]
    middle = [centre[other] for other in across]
    box = tuple(
        slice(max(0, int(m - h)), max(1, int(m + h))) for m, h in zip(reversed(middle), reversed(half), strict=True)
    )
    low, high = np.percentile(plane[box], [1, 99.5])
    axes.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=step[1] / step[0])
    for number, colour in colours.items():
        if (labels == number).any():
            axes.contour((labels == number).astype(float), levels=[0.5], colors=colour, linewidths=1.2)
    horizontal = (middle[0] - half[0], middle[0] + half[0])
    axes.set_xlim(*reversed(horizontal))  # x grows to the patient's right, y (of the sagittal plane) to the front
    axes.set_ylim(middle[1] - half[1], middle[1] + half[1])
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
