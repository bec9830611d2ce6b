"""Li 2021's 3D networks and their training in the segmentation-3d bundle, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, run, verify_net_in_out
from monai.transforms import Compose
from segmentation_bundle import ROOT, SHAPE, load, overrides, same_weights, train_overrides, write_dataset

from crossmoda.engines import read_history
from crossmoda.losses import WeightedDiceLoss
from crossmoda.networks import ResidualUNet3d

CONFIGS = ROOT / "bundles/segmentation-3d/configs"
FLAT = ROOT / "bundles/segmentation-2.5d/configs"
METADATA = CONFIGS / "methods/li2021_metadata.json"
PLAIN, ATTENTION = ["methods/li2021"], ["methods/li2021", "methods/li2021_attention"]
BOTH = pytest.mark.parametrize("method", [PLAIN, ATTENTION], ids=["plain", "attention"])
SMALL = {"patch_size": [32, 32, 16], "window_size": [32, 32, 16], "network_def::channels": [4, 4, 4, 4, 4]}


def paths(*names):
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def parsed(*names, **values):
    parser = ConfigParser()
    parser.read_config(paths(*names))
    parser.update(values)
    parser.parse()
    return parser


def execute(names, values):
    run(config_file=paths(*names), logging_file=False, **values)


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=[PLAIN, ATTENTION], ids=["plain", "attention"])
def trained(request, data_list, tmp_path_factory):
    """A method and the output folder of its training of two epochs."""
    output = tmp_path_factory.mktemp("trained")
    execute(["train", *request.param], train_overrides(data_list, output, max_epochs=2, **SMALL))
    return request.param, output


def test_numbers_of_li_2021():
    value = parsed("train", *PLAIN).get_parsed_content
    assert [value(name) for name in ("spacing", "patch_size")] == [[0.377, 0.447, 1.508], [256, 128, 48]]
    assert [value(name) for name in ("percentiles", "intensity_range")] == [[0, 100], [0.0, 1.0]]
    assert (value("batch_size"), value("val_interval"), value("gradient_norm")) == (2, 1, None)
    optimizer, schedule, loss = value("optimizer"), value("lr_scheduler"), value("loss")
    assert isinstance(optimizer, torch.optim.Adam)
    assert [optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")] == [1e-4, (0.9, 0.999), 1e-5]
    assert (schedule.step_size, schedule.gamma) == (50, 0.5)
    assert isinstance(loss, WeightedDiceLoss)
    assert loss.class_weight.tolist() == pytest.approx([0.1, 1, 1])
    assert value("deep_loss") is None
    assert all(value(f"flip_{axis}").flipper is None or value(f"flip_{axis}").prob == 0 for axis in "xyz")


@pytest.mark.parametrize(("method", "count"), [(PLAIN, 5_996_508), (ATTENTION, 6_029_392)])
def test_networks_differ_in_the_gates_alone(method, count):
    parser, other = parsed("train", *method), parsed("train", *PLAIN)
    net = parser.get_parsed_content("network_def")
    assert isinstance(net, ResidualUNet3d)
    assert sum(p.numel() for p in net.parameters()) == count
    different = [key for key in other.get() if parser[key] != other[key]]
    assert different == (["network_def"] if method == ATTENTION else [])


def test_training_is_that_of_the_25d_network():
    """The same entries as in segmentation-2.5d's train.yaml, some under other names (the default has theirs)."""
    own = ConfigParser.load_config_file(CONFIGS / "methods/li2021.yaml")
    flat = ConfigParser.load_config_file(FLAT / "train.yaml")
    names = {"plain_gamma": "random_gamma", "strong_blur": "blur", "weak_noise": "noise"}
    names = {"affine_rotation": "rotation", "affine_scale": "scale", "plain_gamma_range": "gamma"} | names
    apart = {
        "patch_divisor",
        "network_def",
        "crop",
        "channels",
        "iterations_per_epoch",
        "repeat_cases",
        "preprocessing",
    }
    apart |= {"mirror_axes", "postprocessing_rules"}  # of inference

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [renamed(entry) for entry in value]
        for ours, theirs in names.items():
            value = value.replace(f"@{ours}", f"@{theirs}") if isinstance(value, str) else value
        return value

    flat["deterministic_transforms"].remove("@further_labels")  # of methods/structures.yaml, which is for 2.5D
    compared = own.keys() - apart
    assert {"loss", "optimizer", "lr_scheduler", "affine", "elastic", "mclahe", "sharpen", "clip"} <= compared
    for key in compared:
        assert renamed(own[key]) == flat[names.get(key, key)], key
    assert own["crop"] == flat["crop_by_class"]
    assert own["preprocessing"] == ConfigParser.load_config_file(FLAT / "inference.yaml")["preprocessing"]


def test_training_and_inference_agree():
    on_images = []
    own = ConfigParser.load_config_file(CONFIGS / "methods/li2021.yaml")
    for step in own["deterministic_transforms"]:
        if isinstance(step, str):
            on_images.append(step)
        elif "image" in step["keys"]:
            step = {**step, "keys": "image"}
            step["mode"] = step["mode"][0] if "mode" in step else None
            on_images.append({key: value for key, value in step.items() if value is not None or key == "labels"})
    assert on_images == [step for step in own["preprocessing"]["transforms"] if "LocaliseEarsd" not in str(step)]


def li_item(seed=0):
    random = np.random.RandomState(seed)
    label = torch.zeros(1, 32, 32, 16)
    label[:, 6:16, 8:20, 3:11] = 1
    label[:, 20:28, 12:24, 5:13] = 2
    image = 0.2 + 0.3 * label + torch.from_numpy(random.uniform(-0.002, 0.002, label.shape)).float()
    return {"image": image, "label": label}


GROUPS = ("spatial_augmentation", "appearance_augmentation", "quality_augmentation")


@pytest.mark.parametrize("group", GROUPS)
def test_augmentation_of_probability_zero_does_nothing(group):
    augment = parsed("train", *PLAIN, augmentation_prob=0.0).get_parsed_content(group).set_random_state(0)
    for seed in range(4):
        item = augment(li_item(seed))
        assert torch.equal(item["image"], li_item(seed)["image"])
        assert torch.equal(item["label"], li_item(seed)["label"])


@pytest.mark.parametrize("group", GROUPS)
def test_augmentation_keeps_range_and_label(group):
    """The image tells the classes apart, so that a label that did not follow would be seen."""
    parser = parsed("train", *PLAIN, augmentation_prob=1.0)
    augment = Compose([parser.get_parsed_content(name) for name in (group, "clip")]).set_random_state(1)
    moved = 0
    for seed in range(6):
        item = augment(li_item(seed))
        image, label = torch.as_tensor(item["image"]), torch.as_tensor(item["label"])
        assert not torch.allclose(image, li_item(seed)["image"], atol=1e-3)
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(label.unique().tolist()) <= {0.0, 1.0, 2.0}
        moved += not torch.equal(label, li_item(seed)["label"])
        if group == "spatial_augmentation":
            fit, unmoved = (float((image - (0.2 + 0.3 * c)).abs().mean()) for c in (label, li_item(seed)["label"]))
            assert fit < 0.5 * unmoved
    assert moved == (6 if group == "spatial_augmentation" else 0)


def test_an_epoch_looks_at_each_volume_once(data_list, monkeypatch):
    values = {"data_list": str(data_list), "progress": False, "val_fraction": 0.25}
    for processes, iterations in ((1, 2), (2, 1)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        parser = parsed("train", *PLAIN, **values)
        assert len(parser.get_parsed_content("train_items")) == 3
        assert parser.get_parsed_content("iterations_per_epoch") == iterations
    assert parser["train::sampler::replacement"] == "@repeat_cases"
    assert parser.get_parsed_content("repeat_cases") is False


def test_trains_and_goes_on_where_it_stopped(trained, data_list, tmp_path):
    method, output = trained
    rows = read_history(output / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "val_mean_dice", "val_dice_VS", "val_dice_cochlea"} <= rows[0].keys()
    assert 0 < rows[0]["loss"] < 1
    for epochs in (1, 2):
        execute(["train", *method], train_overrides(data_list, tmp_path, max_epochs=epochs, **SMALL))
    whole, resumed = (load(folder / "model" / "last.pt") for folder in (output, tmp_path))
    assert resumed["epoch"] == 2
    assert same_weights(whole["network"], resumed["network"])
    assert read_history(tmp_path / "history.csv") == rows


def test_segments_from_another_directory_on_the_scans_grid(trained, data_list, tmp_path, monkeypatch):
    method, output = trained
    values = overrides(None, output, input=str(data_list.parent / "case_10_hrT2.nii.gz"), **SMALL)
    monkeypatch.chdir(tmp_path)
    execute(["inference", *method], values | {"output_dir": str(tmp_path / "out")})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    raw = nib.load(data_list.parent / "case_10_hrT2.nii.gz")
    out = nib.load(tmp_path / "out" / "case_10_seg.nii.gz")
    assert out.shape == raw.shape == SHAPE
    assert np.array_equal(out.affine, raw.affine)
    assert out.get_data_dtype() == np.uint8


def test_is_evaluated(trained, data_list, tmp_path):
    method, output = trained
    execute(["evaluate", *method], overrides(data_list, output, **SMALL) | {"output_dir": str(tmp_path)})
    assert json.loads((tmp_path / "summary.json").read_text())["all"]["n"] == 2
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


def test_exports(trained, tmp_path):
    method, output = trained
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(output / "model" / "model.pt"),
        meta_file=str(METADATA),
        config_file=paths("inference", *method),
        bundle_root=str(CONFIGS.parent),
        **{"network_def::channels": SMALL["network_def::channels"]},
    )
    net = ResidualUNet3d(channels=SMALL["network_def::channels"], attention=method == ATTENTION).eval()
    net.load_state_dict(load(output / "model" / "model.pt"))
    x = torch.rand(1, 1, 32, 48, 16)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)


@BOTH
def test_fits_its_metadata(method, tmp_path):
    content = json.loads(METADATA.read_text())
    schema = ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json"
    jsonschema.validate(content, json.loads(schema.read_text()))
    verify_net_in_out("network_def", config_file=paths("inference", *method), meta_file=str(METADATA))
    content["network_data_format"]["outputs"]["pred"]["num_channels"] += 1  # and the check would notice
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out(
            "network_def", config_file=paths("inference", *method), meta_file=str(tmp_path / "metadata.json")
        )


def test_metadata_differs_in_image_and_description_alone():
    own, common = json.loads(METADATA.read_text()), json.loads((CONFIGS / "metadata.json").read_text())
    for metadata in (own, common):
        for key in ("image_classes", "description", "references"):
            del metadata[key]
        image, pred = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
        del image["image"]["spatial_shape"], image["image"]["value_range"], pred["pred"]["spatial_shape"]
    assert own == common


@BOTH
def test_trains_and_segments_at_the_phantoms_size(method, data_list, tmp_path):
    small = {"network_def::channels": [4, 4, 4, 4, 4], "iterations_per_epoch": 1}
    values = train_overrides(data_list, tmp_path, **small)
    del values["patch_size"], values["window_size"]
    phantom, paper = parsed("train", *method, "phantom"), parsed("train", *method)
    assert phantom.get_parsed_content("patch_size") == [64, 80, 32]
    for name in ("affine", "elastic", "plain_gamma", "spatial_augmentation", "deterministic_transforms"):
        assert phantom[name] == paper[name]
    for name in (
        "affine_rotation",
        "affine_scale",
        "plain_gamma_range",
    ):  # unlike rotation, ...
        assert phantom[name] == paper[name]
    execute(["train", *method, "phantom"], values)
    assert read_history(tmp_path / "history.csv")[0]["loss"] > 1  # Dice and weighted cross entropy
    values = overrides(data_list, tmp_path, **small)
    del values["patch_size"], values["window_size"]
    execute(["inference", *method, "phantom"], values | {"overlap": 0.0})
    assert (tmp_path / "case_10_seg.nii.gz").is_file()


def test_mixed_precision_trains(data_list, tmp_path):
    values = SMALL | {"amp": True, "patch_size": [48, 32, 16], "window_size": [48, 32, 16]}
    execute(["train", *ATTENTION], train_overrides(data_list, tmp_path, **values))
    assert all(torch.isfinite(weight).all() for weight in load(tmp_path / "model" / "model.pt").values())


@pytest.mark.slow
def test_two_processes_train_together(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, max_epochs=2, val_fraction=0.5, batch_size=1, **SMALL)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"]
    words += ["run", "--config_file", repr(paths("train", *ATTENTION, "multi_gpu_train"))]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=180, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2]


def test_prepared_volumes_keep_their_grid(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, **SMALL)
    del values["spacing"]
    execute(["train", *PLAIN, "prepared"], values)
    parser = parsed("train", *PLAIN, "prepared", data_list=str(data_list), progress=False, patch_size=[32, 32, 16])
    item = Compose(parser.get_parsed_content("deterministic_transforms"))(parser.get_parsed_content("train_items")[0])
    assert item["image"].shape[1:] == (44, 40, 16)  # padded in z
    assert (float(item["image"].min()), float(item["image"].max())) == pytest.approx((0, 1), abs=1e-6)


def test_raw_scans_through_a_recipe_are_scaled_as_prepared_volumes(tmp_path):
    volume = np.zeros((20, 20, 8), np.float32)
    volume[3:17, 2:18] = np.random.RandomState(0).uniform(0, 700, (14, 16, 8))
    volume[5, 5, 5] = 0
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii.gz")
    found = []
    for last in ("prepared", "preparation"):
        parser = parsed("inference", *PLAIN, last, patch_size=[32, 32, 16], localise=False, preparation="none")
        loading = {"_target_": "LoadImaged", "keys": "image", "image_only": True, "ensure_channel_first": True}
        parser["recipe_preprocessing"] = loading
        parser.parse()
        image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "scan.nii.gz")})["image"]
        assert image.shape[1:] == (32, 32, 16)
        found.append(image[image > 0])
    assert torch.allclose(*found)
    assert np.allclose(np.sort(found[0]), np.sort(volume[volume > 0]) / volume.max(), atol=1e-6)
