"""A run with Koos grades applied to a new scan: masks, grades and a report of the scan."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
import yaml
from koos_heads import write_heads
from monai.bundle import run as bundle_run
from packaging_cases import ROOT, TINY, tumour_weights
from segmentation_bundle import write_case

from crossmoda.bundle import config_path, flatten_config
from crossmoda.errors import InputError
from crossmoda.packaging.weights import build_network
from crossmoda.recipes import apply_run

BUNDLE = ROOT / "bundles/koos-classifier"
CONFIG = {
    "name": "tiny",
    "seed": 0,
    "data_list": "/none.json",
    "translators": {"msf_net": {"overlays": ["methods/msf_net"]}},
    "systems": {
        "flat": {
            "bundle": "segmentation-2.5d",
            "images": "msf_net",
            "overlays": ["methods/li2021"],
            "inference_overlays": ["methods/li2021"],
            "infer": TINY["segmentation-2.5d"],
        }
    },
    "koos": {"encoder": "msf_net", "masks": "flat", "overlays": ["phantom"], "folds": 2},
    "final": "flat",
}


def write_run(folder, **koos):
    """A finished run with random networks: two segmenters, two folds of a classifier, a baseline if `koos` has one."""
    for system in ("flat", "other"):
        tumour_weights(folder / "segmentation" / system / "model")
        (folder / "segmentation" / system / "trained").touch()
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = build_network(flatten_config([config_path(BUNDLE, "inference"), config_path(BUNDLE, "phantom")]))
        path = folder / f"koos/msf_koos_net/seed0/fold{fold}/model/model.pt"
        path.parent.mkdir(parents=True)
        torch.save(network.state_dict(), path)
        path.parents[1].joinpath("trained").touch()
    if "geometry" in koos:
        train_geometry(folder / "heads", folder / "koos/geometry/seed0/model")
    systems = dict.fromkeys(("flat", "other"), CONFIG["systems"]["flat"])
    content = {**CONFIG, "systems": systems, "koos": {**CONFIG["koos"], **koos}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**content, "output_dir": str(folder)}))
    return folder


def train_geometry(data, output):
    source = [{**item, "image": item["mask"], "label": item["mask"]} for item in write_heads(data)]
    source = [{key: value for key, value in item.items() if key != "mask"} for item in source]
    (data / "datalist.json").write_text(json.dumps({"source_training": source}))
    values = {"data_list": str(data / "datalist.json"), "num_folds": 3, "copies": 1, "output_dir": str(output)}
    bundle_run(config_file=str(BUNDLE / "configs/geometry_train.yaml"), progress=False, threads=1, **values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("koos", "features"),
    [
        ({}, False),
        ({"geometry": {}, "combination": "msf_koos_net", "masks": "other"}, True),
        ({"geometry": {}, "final": "geometry"}, True),
    ],
    ids=["network", "combination", "geometry"],
)
def test_masks_grades_and_a_report(koos, features, tmp_path):
    run = write_run(tmp_path / "run", **koos)
    write_case(tmp_path, "patient", 3)
    out = tmp_path / "out"
    assert apply_run(run, [tmp_path / "patient_hrT2.nii.gz"], out, progress=False) == ["patient"]
    with (out / "grades.csv").open() as file:
        (row,) = csv.DictReader(file)
    answer = json.loads((out / "patient_koos.json").read_text())
    assert row["case"] == "patient"
    assert answer["grade"] == int(row["class"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert bool(answer["features"]) is features
    page = (out / "patient_report.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page))
    assert rows["grade"] == row["class"]
    assert rows["model"] == "recipe tiny: flat"
    assert (out / "patient_report.pdf").read_bytes().startswith(b"%PDF")
    assert not list(out.glob(".members_*"))


@pytest.mark.slow
def test_a_recipe_without_grades_takes_none_from_an_earlier_run(tmp_path):
    run = write_run(tmp_path / "run")
    config = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({key: value for key, value in config.items() if key != "koos"}))
    write_case(tmp_path, "patient", 3)
    out = tmp_path / "out"
    out.mkdir()
    (out / "patient_koos.json").write_text(json.dumps({"case": "patient", "grade": 4, "flags": []}))
    apply_run(run, [tmp_path / "patient_hrT2.nii.gz"], out, progress=False)
    page = (out / "patient_report.html").read_text(encoding="utf-8")
    assert "VS, volume" in page
    assert "Koos" not in page


@pytest.mark.parametrize("file", ["model/model.pt", "trained"])
def test_grades_need_their_networks(file, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "koos/msf_koos_net/seed0/fold1" / file).unlink()
    with pytest.raises(InputError, match=rf"fold1/{file} is missing: the run is not finished"):
        apply_run(run, [tmp_path / "patient_hrT2.nii.gz"], tmp_path / "out")
