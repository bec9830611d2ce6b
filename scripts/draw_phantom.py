#!/usr/bin/env python
"""Draw the phantom: one subject a Koos grade, ceT1 and hrT2, whole and close up, with the outlines of the labels."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the phantom computes with one thread

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes

from crossmoda.phantom import Case, CaseSimulator

SITES = ("ldn", "etz", "ldn", "etz")  # of grades 1 to 4
COLOURS = {1: "#ff5a36", 2: "#ffc400", 3: "#2ad4ff"}  # extra-meatal, intra-meatal, cochlea
HALF = 28.0  # half the side of a close-up, mm


def canonical(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, parts and spacing of a case with its axes turned to RAS."""
    image = nib.as_closest_canonical(nib.Nifti1Image(case.image, case.affine))
    parts = nib.as_closest_canonical(nib.Nifti1Image(case.parts, case.affine))
    return np.asarray(image.dataobj), np.asarray(parts.dataobj), np.asarray(image.header.get_zooms())


def draw_slice(axes: Axes, case: Case, close: bool) -> None:
    """One axial slice through the tumour in radiological view (the patient's right is on the left).

    Args:
        axes: where to draw.
        case: what to draw.
        close: True for the surroundings of the tumour with outlines, False for the whole slice.
    """
    image, parts, spacing = canonical(case)
    tumour = np.isin(parts, (1, 2))
    z = int(np.median(np.argwhere(tumour)[:, 2]))
    slice_, label = image[:, :, z].T, parts[:, :, z].T
    x, y = np.argwhere(tumour[:, :, z]).mean(0) * spacing[:2]
    extent = (0, image.shape[0] * spacing[0], 0, image.shape[1] * spacing[1])
    view = {"origin": "lower", "extent": extent}
    top = np.percentile(slice_, 99.7)
    axes.imshow(slice_, cmap="gray", vmin=0, vmax=top, interpolation="bilinear" if close else None, **view)
    for value, colour in COLOURS.items():
        if (label == value).any():
            axes.contour(label == value, levels=[0.5], colors=colour, linewidths=0.9 if close else 0.5, **view)
    if close:
        axes.set(xlim=(x + HALF, x - HALF), ylim=(y - HALF, y + HALF))
    else:
        axes.set(xlim=(extent[1], 0), ylim=(0, extent[3]))
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def draw(preset: str, seed: int, path: Path) -> None:
    """Draw the montage: columns are Koos grades, rows modalities, whole and close up."""
    figure, axes = plt.subplots(4, 4, figsize=(8, 8.1), facecolor="black")
    for grade, site in enumerate(SITES, start=1):
        for row, modality in enumerate(("ceT1", "hrT2")):
            simulator = CaseSimulator(site, modality, preset)
            simulator.set_random_state(seed + grade)  # the same subject in both modalities
            case = simulator(grade)
            for close in (False, True):
                draw_slice(axes[2 * row + close, grade - 1], case, close)
            label = f"{modality} {case.facts['protocol']}"
            axes[2 * row, grade - 1].text(
                0.02, 0.96, label, color="w", size=6, va="top", transform=axes[2 * row, grade - 1].transAxes
            )
        axes[0, grade - 1].set_title(f"Koos {grade}, {case.facts['volume_ml']:.2f} mL", color="w", size=8)
    figure.subplots_adjust(left=0.002, right=0.998, bottom=0.002, top=0.965, wspace=0.01, hspace=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", choices=("demo", "full"), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    draw(args.preset, args.seed, args.output)


if __name__ == "__main__":
    main()
