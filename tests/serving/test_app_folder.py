"""The folder that is served: flattened copies, with weights that stay until others are given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from crossmoda.errors import InputError
from crossmoda.serving import make_app, served_type

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
TINY = "network_def::channels: [4, 4, 4, 4, 4]\n"


def write_weights(path, overlay, bundle="segmentation-2.5d", seed=0):
    """Random weights of the bundle's network with an overlay."""
    torch.manual_seed(seed)
    config = ConfigParser.load_config_files([str(BUNDLES / bundle / "configs/inference.yaml"), str(overlay)])
    network = ConfigParser(config).get_parsed_content("network_def")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return str(tmp_path / "tiny.yaml")


@pytest.fixture
def weights(tmp_path, tiny):
    return write_weights(tmp_path / "trained/model.pt", tiny)


def read(path):
    return json.loads(path.read_text())


def test_each_bundle_gets_the_type_of_its_output():
    expected = {"segmentation-2.5d": "segmentation", "segmentation-3d": "segmentation", "translation": "others"}
    for name, kind in expected.items():
        assert served_type(read(BUNDLES / name / "configs/metadata.json")) == kind


def test_a_bundle_is_copied_flattened_with_its_weights(tmp_path, tiny):
    (tmp_path / "both.yaml").write_text(TINY + "attention: false\n")  # as in phantom.yaml
    weights = write_weights(tmp_path / "trained/model.pt", tmp_path / "both.yaml")
    (weights.parent / "reference.json").write_text('{"features": {}}')
    overlays = {"segmentation-2.5d": ["phantom", tiny]}
    content = make_app(tmp_path / "app", ["segmentation-2.5d"], {"segmentation-2.5d": weights}, overlays)
    copy = tmp_path / "app/model/segmentation-2.5d"
    inference, train = (read(copy / f"configs/{name}.json") for name in ("inference", "train"))
    assert inference["network_def"]["channels"] == train["network_def"]["channels"] == [4, 4, 4, 4, 4]
    assert inference["localise"] is False  # phantom's
    assert inference["progress"] is False
    assert (copy / "models/model.pt").read_bytes() == weights.read_bytes()
    assert (copy / "models/reference.json").is_file()
    assert (copy / "configs/mlflow.json").is_file()
    assert "LabelApp" in (tmp_path / "app/main.py").read_text()
    assert read(tmp_path / "app/served.json") == content
    entry = content["bundles"]["segmentation-2.5d"]
    assert (entry["type"], entry["trainable"]) == ("segmentation", True)
    assert content["tracking_uri"] == f"sqlite:///{tmp_path}/app/mlruns.db"


def test_trained_weights_stay_until_others_are_given_or_a_fresh_start_is_asked_for(tmp_path, tiny, weights):
    def serve(path=weights, **options):
        overlays = {"segmentation-2.5d": [tiny]}
        make_app(tmp_path / "app", ["segmentation-2.5d"], {"segmentation-2.5d": path}, overlays, **options)
        return (tmp_path / "app/model/segmentation-2.5d/models/model.pt").read_bytes()

    assert serve() == weights.read_bytes()
    tuned = write_weights(tmp_path / "tuned.pt", tiny, seed=1)
    shutil.copy(tuned, tmp_path / "app/model/segmentation-2.5d/models/model.pt")  # as a fine-tuning does
    assert serve() == tuned.read_bytes()
    assert serve(fresh=True) == weights.read_bytes()
    other = write_weights(tmp_path / "other.pt", tiny, seed=2)
    assert serve(other) == other.read_bytes()


def test_a_translator_gives_an_image_without_labels_and_is_not_trained(tmp_path):
    (tmp_path / "tiny.yaml").write_text("features: 4\nn_blocks: 1\n")
    tiny = str(tmp_path / "tiny.yaml")
    path = write_weights(tmp_path / "model.pt", tiny, "translation")
    content = make_app(tmp_path / "app", ["translation"], {"translation": path}, {"translation": [tiny]})
    assert content["bundles"]["translation"].items() >= {"type": "others", "trainable": False}.items()
    configs = tmp_path / "app/model/translation/configs"
    assert "channel_def" not in read(configs / "metadata.json")["network_data_format"]["outputs"]["pred"]
    assert not (configs / "train.json").exists()


@pytest.mark.parametrize("overlay", ["preparation", "structures"])
def test_what_a_saved_label_cannot_train_has_no_training(tmp_path, tiny, overlay):
    (tmp_path / "both.yaml").write_text(TINY + "num_classes: 5\n" * (overlay == "structures"))
    path = write_weights(tmp_path / "model.pt", tmp_path / "both.yaml")
    overlays = {"segmentation-2.5d": [overlay, tiny]}
    content = make_app(tmp_path / "app", ["segmentation-2.5d"], {"segmentation-2.5d": path}, overlays)
    assert content["bundles"]["segmentation-2.5d"]["trainable"] is False


def test_three_classes_are_named(tmp_path, tiny):
    (tmp_path / "both.yaml").write_text(TINY + "num_classes: 4\n")
    path = write_weights(tmp_path / "model.pt", tmp_path / "both.yaml")
    overlays = {"segmentation-2.5d": ["three_class", tiny]}
    make_app(tmp_path / "app", ["segmentation-2.5d"], {"segmentation-2.5d": path}, overlays)
    metadata = read(tmp_path / "app/model/segmentation-2.5d/configs/metadata.json")
    assert len(metadata["network_data_format"]["outputs"]["pred"]["channel_def"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundles": ["segmentation-4d"]}, "not found"),
        ({"bundles": ["self-training"]}, "no network of its own"),
        ({"overlays": {"segmentation-2.5d": ["li2020"]}}, "no config 'li2020'"),
        ({"overlays": {"segmentation-3d": ["li2021"]}}, "not among"),
        ({"weights": {"segmentation-2.5d": "absent.pt"}}, "absent.pt is missing"),
        ({"overlays": {}}, "of another network"),
    ],
)
def test_faults_are_named_before_the_server_starts(tmp_path, tiny, weights, arguments, message):
    given = {
        "bundles": ["segmentation-2.5d"],
        "weights": {"segmentation-2.5d": weights},
        "overlays": {"segmentation-2.5d": [tiny]},
    }
    if arguments.get("bundles"):
        given["weights"], given["overlays"] = {}, {}
    with pytest.raises(InputError, match=message):
        make_app(tmp_path / "app", **given | arguments)
    assert not (tmp_path / "app/served.json").exists()


def test_a_pickle_that_is_no_state_dict_is_not_executed(tmp_path, tiny):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "executed").touch, ())

    torch.save(Bomb(), tmp_path / "model.pt")
    overlays = {"segmentation-2.5d": [tiny]}
    with pytest.raises(InputError, match="not a checkpoint"):
        make_app(tmp_path / "app", ["segmentation-2.5d"], {"segmentation-2.5d": tmp_path / "model.pt"}, overlays)
    assert not (tmp_path / "executed").exists()
