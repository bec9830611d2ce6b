"""Measure what labels lose on the way through a recipe and back: Dice of each raw label with itself.

Prepares the labelled scans of a data list by each recipe, brings the prepared labels back to the raw scans' grids, and
compares. Nothing is segmented: what is missing from 1 is the resampling's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np

from crossmoda.data import label_map, load_datalist, write_datalist
from crossmoda.errors import exit_on_input_error
from crossmoda.labels import CLASS_NAMES, FOREGROUND
from crossmoda.preparation import Recipe, prepare, recipe_names, restore


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice of two masks, at least one of which is not empty."""
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def measure(recipe: str, items: list[dict], data_list: Path, folder: Path, jobs: int) -> list[tuple[str, int, list]]:
    """Case, voxels of the VS, and the Dice of each class, there and back."""
    mapping = label_map(data_list)
    lookup = np.array([mapping.get(value, 0) for value in range(256)], np.uint8)
    summary = prepare(data_list, Recipe.load(recipe), folder, jobs=jobs)
    print(f"{recipe}: {summary.counts}", *summary.notes, sep="\n  ", flush=True)
    rows = []
    for item in items:
        prepared = folder / "source_training" / f"{item['case']}_Label.nii.gz"
        back = folder / "back.nii.gz"
        restore(prepared, prepared.with_name(f"{item['case']}_ceT1.json"), back)
        truth, found = (lookup[np.asarray(nib.load(path).dataobj).astype(np.uint8)] for path in (item["label"], back))
        rows.append(
            (item["case"], int((truth == FOREGROUND[0]).sum()), [dice(truth == c, found == c) for c in FOREGROUND])
        )
    return rows


def run(arguments: argparse.Namespace) -> None:
    """Measure all recipes and print."""
    source = Path(arguments.datalist)
    items = [item for item in load_datalist(source, "source_training", check="header") if item.get("label")]
    folder = Path(arguments.output_dir)
    data_list = folder / "labelled.json"
    references = load_datalist(source, "target_training", check="header")
    write_datalist({"source_training": items, "target_training": references[:1]}, data_list, label_map(source))
    table, cases = [], {}
    for recipe in arguments.recipes:
        rows = measure(recipe, items, data_list, folder / recipe, arguments.jobs)
        cases[recipe] = rows
        ends = [(min(scores), max(scores)) for scores in zip(*(row[2] for row in rows), strict=True)]
        table.append(f"| `{recipe}` | " + " | ".join(f"{low:.3f}-{high:.3f}" for low, high in ends) + " |")
    (folder / "way_back.json").write_text(json.dumps(cases, indent=1) + "\n")
    names = " | ".join(CLASS_NAMES[c] for c in FOREGROUND)
    print(f"\n| recipe | {names} |\n|---|" + "---|" * len(FOREGROUND), *table, sep="\n")
    voxels = [row[1] for row in next(iter(cases.values()))]
    print(f"\n{len(voxels)} scans, VS of {min(voxels)} to {max(voxels)} voxels")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", required=True, metavar="FILE")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="for prepared volumes and way_back.json")
    parser.add_argument("--recipes", nargs="+", default=recipe_names(), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    sys.exit(exit_on_input_error(run)(parser.parse_args()))


if __name__ == "__main__":
    main()
