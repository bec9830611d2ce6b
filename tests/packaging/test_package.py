"""A package runs in an empty folder without the repository, and gives what the repository gives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import koos_bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ckpt_export, load, run, verify_metadata, verify_net_in_out
from packaging_cases import ROOT, TINY, python_elsewhere, tiny
from segmentation_bundle import write_case, write_dataset

from crossmoda.bundle import config_path, flatten_config
from crossmoda.errors import InputError
from crossmoda.packaging import check_bundle, package_bundle, unpack_bundle
from crossmoda.packaging.metadata import SCHEMA
from crossmoda.packaging.package import vendored_package
from crossmoda.packaging.weights import build_network

NAMES = tuple(TINY)


@pytest.fixture(
    scope="module",
    params=[name if name == "segmentation-2.5d" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def package(request, tmp_path_factory):
    """A bundle's name, the overlay and weights, the zip, and the folder in which it was unpacked."""
    folder = tmp_path_factory.mktemp("package")
    overlay, weights = tiny(request.param, folder)
    path = package_bundle(ROOT / "bundles" / request.param, weights, [str(overlay)], folder / "bundle.zip")
    return request.param, overlay, weights, path, unpack_bundle(path, folder / "empty")


def test_runs_elsewhere_as_in_the_repository(package, tmp_path):
    name, overlay, weights, _, root = package
    write_case(tmp_path, "patient", 3)
    scan = tmp_path / "patient_hrT2.nii.gz"
    shutil.copyfile(scan, tmp_path / "patient_ceT1.nii.gz")
    (tmp_path / "elsewhere").mkdir()
    config = str(root / "configs" / "inference.json")
    words = ["--config_file", config, "--input", str(scan), "--output_dir", str(tmp_path / "packaged")]
    python_elsewhere("-m", "monai.bundle", "run", *words, cwd=tmp_path / "elsewhere")

    files = [str(ROOT / "bundles" / name / "configs" / "inference.yaml"), str(overlay)]
    values = {"input": str(scan), "output_dir": str(tmp_path / "here"), "ckpt_dir": str(weights.parent)}
    run(config_file=files, meta_file=str(root / "configs/metadata.json"), logging_file=False, **values)
    suffix = "hrT2" if name == "translation" else "seg"
    here, packaged = (
        np.asarray(nib.load(tmp_path / side / f"patient_{suffix}.nii.gz").dataobj) for side in ("here", "packaged")
    )
    assert len(np.unique(here)) > 1
    assert np.array_equal(here, packaged)


LOAD = """
import sys, torch, monai
from monai.bundle import load
network = load(sys.argv[2], bundle_dir=sys.argv[3], workflow_type="inference")
assert sys.modules["crossmoda"].__file__.startswith(sys.argv[3]), sys.modules["crossmoda"].__file__
torch.save(network.state_dict(), sys.argv[4])
from crossmoda.provenance import versions
print(versions()["crossmoda"])
"""


def test_loads_elsewhere(package, tmp_path):
    _, _, weights, _, root = package
    loaded = tmp_path / "loaded.pt"
    printed = python_elsewhere("-c", LOAD, root.name, str(root.parent), str(loaded), cwd=tmp_path)
    assert printed.strip().endswith("0.1.0")
    expected, found = (torch.load(path, weights_only=True) for path in (weights, loaded))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_loads_beside_the_repository(package):
    _, _, weights, _, root = package
    network = load(root.name, bundle_dir=str(root.parent), workflow_type="inference")
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_passes_the_zoos_checks(package, tmp_path, monkeypatch):
    name, _, weights, _, root = package
    assert (root / "LICENSE").is_file()
    metadata = json.loads((root / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["pytorch_version"] == torch.__version__.split("+")[0]
    assert {"itk", "nibabel", "pytorch-ignite"} <= metadata["required_packages_version"].keys()
    schema = shutil.copyfile(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(root / "configs/metadata.json"), filepath=str(schema))
    assert check_bundle(root) == []
    monkeypatch.chdir(root)  # as the zoo's own check does
    files = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}
    verify_net_in_out("network_def", **files, device="cpu", n=2 if name == "translation" else 1)
    ckpt_export("network_def", str(tmp_path / "model.ts"), ckpt_file="models/model.pt", bundle_root=".", **files)
    config = json.loads((root / "configs/inference.json").read_text())
    network = build_network(config)
    network.load_state_dict(torch.load(weights, weights_only=True))
    x = torch.rand(1, 1, *((64, 64) if name == "translation" else (32, 32, 8)))
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(tmp_path / "model.ts")(x), network(x), atol=1e-5)


def test_same_input_gives_the_same_bytes(package, tmp_path):
    name, overlay, weights, path, _ = package
    again = tmp_path / "again.zip"
    os.utime(weights, (0, 0))
    package_bundle(ROOT / "bundles" / name, weights, [str(overlay)], again)
    assert again.read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {item.filename.split("/")[0] for item in archive.infolist()} == {f"{name}_tiny"}


def test_holds_what_a_reader_needs(package):
    name, overlay, weights, _, root = package
    card = (root / "docs/README.md").read_text()
    assert card.startswith((ROOT / "bundles" / name / "docs/README.md").read_text().splitlines()[0])
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "](../" not in card
    done = subprocess.run(["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=root, capture_output=True)
    assert done.returncode == 0, done.stdout
    flat = flatten_config([config_path(ROOT / "bundles" / name, "inference"), overlay])
    packaged = json.loads((root / "configs/inference.json").read_text())
    own = {"workflow", "bundle_root", "imports", "initialize"}
    assert {key: value for key, value in packaged.items() if key not in own} == {
        key: value for key, value in flat.items() if key not in own
    }
    assert not [path for path in root.rglob("*") if path.is_file() and str(ROOT) in path.read_bytes().decode("latin-1")]


def test_all_of_crossmoda_is_vendored():
    modules = {path.relative_to(ROOT / "shared").as_posix() for path in ROOT.glob("shared/crossmoda/**/*.py")}
    assert modules <= vendored_package().keys()


@pytest.mark.slow
def test_trains_elsewhere(tmp_path):
    overlay, weights = tiny("segmentation-2.5d", tmp_path)
    path = package_bundle(ROOT / "bundles/segmentation-2.5d", weights, [str(overlay)], tmp_path / "bundle.zip")
    root = unpack_bundle(path, tmp_path / "empty")
    values = {
        "config_file": str(root / "configs/train.json"),
        "data_list": str(write_dataset(tmp_path / "data")),
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "out" / "model"),
        "initial_weights": str(root / "models/model.pt"),
        "max_epochs": "1",
        "num_workers": "0",
    }
    words = [word for key, value in values.items() for word in (f"--{key}", value)]
    python_elsewhere("-m", "monai.bundle", "run", *words, cwd=tmp_path)
    assert torch.load(tmp_path / "out/model/model.pt", weights_only=True).keys() == (
        torch.load(weights, weights_only=True).keys()
    )


def test_all_stages_of_the_classifier_are_packaged(tmp_path):
    data = koos_bundle.write_dataset(tmp_path / "data")
    overlay, values = tmp_path / "tiny.yaml", koos_bundle.sizes(tmp_path)
    places = {key: values.pop(key) for key in ("output_dir", "ckpt_dir")}
    overlay.write_text(yaml.safe_dump(values))
    bundle = ROOT / "bundles/koos-classifier"
    torch.manual_seed(0)
    network = build_network(flatten_config([config_path(bundle, "inference"), overlay]))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    overlays = ["methods/not_frozen", str(overlay)]
    path = package_bundle(bundle, tmp_path / "model.pt", overlays, tmp_path / "bundle.zip")
    root = unpack_bundle(path, tmp_path / "empty")
    configs = {stage: json.loads((root / f"configs/{stage}.json").read_text()) for stage in ("pretrain", "finetune")}
    assert configs["pretrain"]["frozen"] == ["encoder"]  # the overlay is of fine-tuning alone
    assert configs["finetune"]["frozen_in_finetuning"] == []
    stages = {file.stem for file in (root / "configs").glob("*.json")} - {"metadata", "mlflow", "multi_gpu_train"}
    assert stages == {"pretrain", "finetune", "inference", "evaluate", "geometry_train", "geometry", "combine"}
    assert check_bundle(root) == []

    stage = koos_bundle.train_overrides(data, Path(places["output_dir"]))
    stage = {key: value for key, value in stage.items() if key not in values} | {"ckpt_dir": str(tmp_path / "stage")}
    words = [word for key, value in stage.items() for word in (f"--{key}", str(value))]
    config = str(root / "configs/pretrain.json")
    python_elsewhere("-m", "monai.bundle", "run", "--config_file", config, *words, cwd=tmp_path)
    assert torch.load(tmp_path / "stage/model.pt", weights_only=True).keys() == network.state_dict().keys()


# --- faults ---------------------------------------------------------------------------------------------------------


def spoilt(state: dict, how: str, path: Path) -> Path:
    first = next(iter(state))
    if how == "pickle":
        torch.save(torch.nn.Linear(2, 2), path)
    elif how == "text":
        path.write_text("weights")
    elif how != "absent":
        states = {
            "missing": {key: value for key, value in state.items() if key != first},
            "unknown": {**state, "more": torch.zeros(1)},
            "shape": {**state, first: torch.zeros(1, 2, 3)},
            "nan": {**state, first: state[first] * float("nan")},
            "training state": {"network": state, "epoch": 3},
        }
        torch.save(states[how], path)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "is missing"),
        ("text", "is not a checkpoint of tensors"),
        ("pickle", "is not a checkpoint of tensors"),
        ("training state", "is not a plain state dict"),
        ("missing", "is missing): give the overlays"),
        ("unknown", "'more' is unknown"),
        ("shape", r"is \(1, 2, 3\), needed is"),
        ("nan", "is not finite"),
    ],
)
def test_weights_that_do_not_fit(how, message, tmp_path):
    overlay, weights = tiny("translation", tmp_path)
    bad = spoilt(torch.load(weights, weights_only=True), how, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=message.replace("):", r"\):")):
        package_bundle(ROOT / "bundles/translation", bad, [str(overlay)], tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_a_bundle_without_a_network_is_refused(tmp_path):
    _, weights = tiny("translation", tmp_path)
    with pytest.raises(InputError, match="no network of its own"):
        package_bundle(ROOT / "bundles/self-training", weights, [], tmp_path / "out.zip")


def test_a_bundle_with_a_fault_is_refused(tmp_path):
    _, weights = tiny("translation", tmp_path)
    (tmp_path / "mine.yaml").write_text("slice_batch_sise: 3\n")
    with pytest.raises(InputError, match="no config knows 'slice_batch_sise': did you mean 'slice_batch_size'"):
        package_bundle(ROOT / "bundles/translation", weights, [str(tmp_path / "mine.yaml")], tmp_path / "out.zip")


@pytest.mark.slow
def test_commands(tmp_path):
    overlay, _ = tiny("translation", tmp_path)

    def script(name, *words):
        command = [sys.executable, str(ROOT / "scripts" / name), *words]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path)

    done = script("package_bundle.py", "translation", "--overlays", "tiny.yaml", "--weights", "model.pt")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("translation_tiny_v*.zip")
    assert "no fault found" in script("check_bundle.py", path.name).stdout
    done = script("package_bundle.py", "translation", "--weights", str(overlay))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
