"""What the tests of the recipes share: tiny scans with a truth, and a tiny recipe with every kind of stage."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from segmentation_bundle import ROOT, write_case
from self_training_bundle import NETWORKS, SIZES, TRAINING

RECIPES = ROOT / "scripts" / "recipes"
COUNTS = {"source_training": range(5), "target_training": range(10, 15), "target_validation": (20, 21)}
GRID = {
    key: value for key, value in SIZES.items() if key not in ("spacing", "roi_size")
}  # prepared volumes keep theirs
ENCODER = {"features": 16, "n_blocks": 4}  # as the classifier's phantom.yaml has it


def write_scans(folder: Path) -> tuple[Path, Path]:
    """A data list without the truth of the target scans, and one with it."""
    folder.mkdir(parents=True)
    sections = {
        name: [{**write_case(folder, f"case_{n}", n), "koos": 1 + n % 2} for n in numbers]
        for name, numbers in COUNTS.items()
    }
    truth = folder / "oracle.json"
    truth.write_text(json.dumps(sections))
    hidden = {
        name: items
        if name == "source_training"
        else [{key: item[key] for key in ("case", "site", "image")} for item in items]
        for name, items in sections.items()
    }
    data = folder / "datalist.json"
    data.write_text(json.dumps(hidden))
    return data, truth


def write_recipe(folder: Path, weights: Path | None = None) -> Path:
    """Preparation, a translator, two folds, a fusion, self-training, bounds and grades, of a few steps each.

    Args:
        folder: gets `tiny.yaml`.
        weights: that the masks' system starts from; None: random ones, and after so few steps perhaps empty masks.
    """
    systems = {}
    for name, bundle, network in (("flat", "segmentation-2.5d", "unet2d5"), ("deep", "segmentation-3d", "unet3d")):
        own = {**GRID, **NETWORKS[network], "threads": 1}
        systems[name] = {
            "bundle": bundle,
            "images": "msf_net",
            "overlays": ["methods/li2021"],
            "train": {**own, **TRAINING, "num_folds": 5},
            "infer": own,
        }
    systems["flat"]["folds"] = [0, 1]
    if weights is not None:
        systems["flat"]["train"]["initial_weights"] = str(weights)
    recipe = {
        "name": "tiny",
        "preparation": {
            "recipe": "shin2021",
            "settings": {"spacing": [0.8, 0.8, 1.7], "size": [32, 32, -1]},
        },
        "translators": {
            "msf_net": {
                "overlays": ["methods/msf_net"],
                "train": {
                    **ENCODER,
                    **{"max_epochs": 2, "epoch_slices": 4, "crop_size": [24, 24], "val_fraction": 0.4, "threads": 1},
                    **{"lambda_parcellation": 0, "discriminator_layers": 2, "discriminator_crop": 16},
                },
                "translate": ENCODER,
            }
        },
        "systems": systems,
        "fusions": {"both": {"members": ["flat", "deep"], "rule": "mean", "postprocessing": ["largest_vs"]}},
        "self_training": {
            # Untrained networks predict nonsense, which any selection would leave out.
            "rounds": {"translated": ["msf_net"], "members": ["deep"], "train": {"selection_rules": [], "threads": 1}}
        },
        "koos": {"encoder": "msf_net", "masks": "flat", "overlays": ["phantom"], "folds": 2},
        "final": "both",
        "bounds": "deep",
        "presets": {"paper": None},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
