"""What the tests of the self-training bundle share: tiny scans, tiny networks, and the bundle run as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import yaml
from monai.bundle import ConfigParser, run
from segmentation_bundle import ROOT, write_case

CONFIGS = ROOT / "bundles/self-training/configs"
METHODS = ("shin2021", "kang2022", "chen2023", "li2021")

SIZES = {
    "spacing": [0.8, 0.8, 1.7],
    "roi_size": [-1, -1, -1],
    "patch_size": [32, 32, 8],
    "window_size": [32, 32, 8],
    "amp": False,  # see AutocastInferer for so small patches
    "localise": False,  # nothing of a head in these scans
}
TRAINING = {"max_epochs": 1, "num_workers": 0, "val_interval": 1, "batch_size": 1}
NETWORKS = {
    "unet2d5": {"network_def::channels": [4] * 5},
    "unet3d": {"channels": [4] * 3},
    "resunet2d5": {"features": 4, "blocks": 1},
    "nnunet_3d": {
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "features": [4, 4, 4],
        "mirror_axes": [0],
    },
    "nnunet_2d": {
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1]],
        "kernel_sizes": [[3, 3, 1]] * 3,
        "features": [4, 4, 4],
        "mirror_axes": [0],
        "patch_size": [32, 32, 1],
        "window_size": [32, 32, 1],
        "spacing": [0.8, 0.8, -1],
    },
}
ITERATIONS = {"nnunet_3d": {"iterations_per_epoch": 2}, "nnunet_2d": {"iterations_per_epoch": 2}}


def write_data(folder: Path) -> dict[str, Path]:
    """A data list with hidden labels, one translated list a view, and the truth."""
    source = folder / "source"
    source.mkdir(parents=True)
    cases = [write_case(source, f"case_{n}", n) for n in range(5)]
    lists = {}
    for view in ("cyclegan", "qs_attn"):
        (folder / view).mkdir()
        items = []
        for item in cases:
            image = nib.load(source / item["image"])
            nib.save(nib.Nifti1Image(image.get_fdata() * 1.1, image.affine), folder / view / item["image"])
            items.append({**item, "label": f"../source/{item['label']}"})
        lists[view] = folder / view / "datalist.json"
        lists[view].write_text(json.dumps({"source_training": items}))
    target, truth = folder / "target", folder / "truth"
    target.mkdir()
    truth.mkdir()
    hidden = []
    for n in range(10, 14):
        item = write_case(target, f"case_{n}", n)
        (target / item["label"]).rename(truth / item["label"])
        hidden.append({**item, "image": f"../target/{item['image']}"})
    lists["oracle"] = truth / "oracle.json"
    lists["oracle"].write_text(json.dumps({"target_training": hidden, "target_validation": hidden[:2]}))
    lists["data"] = target / "datalist.json"
    plain = [{key: value for key, value in item.items() if key != "label"} for item in hidden]
    lists["data"].write_text(
        json.dumps({"target_training": [{**item, "image": Path(item["image"]).name} for item in plain]})
    )
    return lists


def kind(member: str) -> str:
    return next(name for name in NETWORKS if member.startswith(name))


def config_files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def tiny(folder: Path, *names: str, folds: int = 2, **entries) -> list[str]:
    """Config files with one more that makes the members' networks tiny."""
    parser = ConfigParser()
    parser.read_config(config_files("train", *names))
    content = {"num_folds": folds, **entries}
    for member in parser["members"]:
        own = {**SIZES, **NETWORKS[kind(member)]}
        content[f"members::{member}::train"] = {**own, **TRAINING, **ITERATIONS.get(kind(member), {})}
        content[f"members::{member}::infer"] = own
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return [*config_files("train", *names), str(path)]


def values(lists: dict[str, Path], output: Path, views=("cyclegan",), **more):
    translated = {view: str(lists[view]) for view in views}
    return {
        "data_list": str(lists["data"]),
        "translated": translated,
        "output_dir": str(output),
        "threads": 1,
        "progress": False,
        **more,
    }


def run_in_process(files, overrides):
    run(config_file=files, logging_file=False, **overrides)


def command(files, overrides):
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", repr(files)]
    for key, value in overrides.items():
        words += [f"--{key}", repr(value)]
    return words
