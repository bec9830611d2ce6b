"""What the tests of the koos-classifier bundle share: tiny graded cases, and the bundle run as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import run

from crossmoda.networks import MSFGenerator

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles/koos-classifier/configs"
SHAPE = (24, 20, 14)
TRANSLATOR = {"features": 4, "n_blocks": 1}


def affine():
    """LPS axes, as scanners write them."""
    return np.diag([-1.0, -1.0, 1.5, 1.0])


def save(array, path):
    nib.save(nib.Nifti1Image(array, affine()), path)
    return str(path)


def write_case(folder, case, grade, seed):
    """A tumour whose size is its grade's, bright on ceT1 and dark on hrT2."""
    random = np.random.RandomState(seed)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[8 : 9 + 2 * grade, 8:11, 5 : 6 + grade] = 1
    label[2:4, 2:4, 6:8] = 2
    noise = 30 * random.rand(*SHAPE)
    item = {"case": case, "site": "ldn", "koos": grade}
    item["image"] = save((200 + 400 * (label == 1) + noise).astype(np.int16), folder / f"{case}_ceT1.nii.gz")
    item["label"] = save(label, folder / f"{case}_Label.nii.gz")
    hrt2 = save((500 - 300 * (label == 1) + noise).astype(np.int16), folder / f"{case}_hrT2.nii.gz")
    return item, {**item, "image": hrt2}


def write_dataset(folder: Path, per_grade: int = 2) -> Path:
    """data/datalist.json (graded ceT1, one post-operative case, hidden hrT2), translations.json, masks/, msf_net.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir()
    pairs = [write_case(folder, f"case_{n}", 1 + n % 4, n) for n in range(4 * per_grade)]
    post, post_hrt2 = write_case(folder, "operated", 2, 99)
    source = [pair[0] for pair in pairs] + [{**post, "koos": "post-operative-london"}]
    hidden = []
    for n, grade in enumerate((2, 4)):
        item, translated = write_case(folder, f"hidden_{n}", grade, 50 + n)
        label = np.asarray(nib.load(item["label"]).dataobj)
        save(label, folder / "masks" / f"hidden_{n}_seg.nii.gz")
        hidden.append({"case": item["case"], "site": "ldn", "image": translated["image"]})
    (folder / "datalist.json").write_text(json.dumps({"source_training": source, "target_validation": hidden}))
    translations = {"source_training": [pair[1] for pair in pairs] + [post_hrt2]}
    (folder / "translations.json").write_text(json.dumps(translations))
    torch.manual_seed(0)
    torch.save(MSFGenerator(3, **TRANSLATOR).state_dict(), folder / "msf_net.pt")
    return folder


def bundle_config(name: str) -> str:
    return str(CONFIGS / f"{name}.yaml")


def sizes(output: Path, **more):
    """The bundle on a few thousand voxels, quietly."""
    return {
        "output_dir": str(output),
        "ckpt_dir": str(output / "model"),
        "spacing": [1.0, 1.0, 1.5],
        "roi_size": [-1, -1, -1],
        "crop_size": [16, 16, 8],
        **TRANSLATOR,
        "hidden": 8,
        "projection": 4,
        "threads": 1,
        "amp": False,
        "progress": False,
        **more,
    }


def train_overrides(data: Path, output: Path, **more):
    values = {
        "data_list": str(data / "datalist.json"),
        "translations": str(data / "translations.json"),
        "translator": str(data / "msf_net.pt"),
        "fold": 0,
        "num_folds": 2,
        "crop_shift": [2, 2, 1],
        "max_epochs": 2,
        "epoch_steps": 2,
        "num_workers": 0,
    }
    return sizes(output, **values | more)


def inference_overrides(data: Path, output: Path, **more):
    values = {
        "data_list": str(data / "datalist.json"),
        "section": "target_validation",
        "masks": str(data / "masks"),
    }
    return sizes(output, **values | more)


def command(config_files, values, *, executable=(sys.executable,)):
    words = [*executable, "-m", "monai.bundle", "run"]
    words += ["--config_file", repr([bundle_config(name) for name in config_files])]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    return words


def run_in_process(config_files, values):
    run(config_file=[bundle_config(name) for name in config_files], logging_file=False, **values)


def load(path):
    return torch.load(path, weights_only=True)


def same_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
