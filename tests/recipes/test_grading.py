"""A run with Koos grades applied to a new scan: masks, grades and a report of the scan."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
import yaml
from packaging_cases import ROOT, TINY, tiny
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


def write_run(folder):
    """A finished run with random networks: one segmenter, a classifier of two folds."""
    _, weights = tiny("segmentation-2.5d", folder / "segmentation/flat/model")
    state = torch.load(weights, weights_only=True)
    for value in [
        tensor for tensor in state.values() if tensor.shape == (3,)
    ]:  # of the last layer, one of three classes
        value += torch.tensor([0.0, 1.0, 0.0])
    torch.save(state, weights)
    (folder / "segmentation/flat/trained").touch()
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = build_network(flatten_config([config_path(BUNDLE, "inference"), config_path(BUNDLE, "phantom")]))
        path = folder / f"koos/msf_koos_net/seed0/fold{fold}/model/model.pt"
        path.parent.mkdir(parents=True)
        torch.save(network.state_dict(), path)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**CONFIG, "output_dir": str(folder)}))
    return folder


@pytest.mark.slow
def test_masks_grades_and_a_report(tmp_path):
    run = write_run(tmp_path / "run")
    write_case(tmp_path, "patient", 3)
    out = tmp_path / "out"
    assert apply_run(run, [tmp_path / "patient_hrT2.nii.gz"], out, progress=False) == ["patient"]
    with (out / "grades.csv").open() as file:
        (row,) = csv.DictReader(file)
    answer = json.loads((out / "patient_koos.json").read_text())
    assert row["case"] == "patient"
    assert answer["grade"] == int(row["class"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    page = (out / "patient_report.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page))
    assert rows["grade"] == row["class"]
    assert rows["model"] == "recipe tiny: flat"
    assert (out / "patient_report.pdf").read_bytes().startswith(b"%PDF")
    assert not list(out.glob(".members_*"))


def test_grades_need_their_networks(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "koos/msf_koos_net/seed0/fold1/model/model.pt").unlink()
    with pytest.raises(InputError, match=r"fold1/model/model\.pt is missing: the run is not finished"):
        apply_run(run, [tmp_path / "patient_hrT2.nii.gz"], tmp_path / "out")
