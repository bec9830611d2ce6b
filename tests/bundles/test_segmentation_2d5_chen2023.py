"""Chen 2023's 2.5D ResUNet and its training in the segmentation-2.5d bundle, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from monai.transforms import Compose
from segmentation_bundle import (
    CONFIGS,
    SHAPE,
    bundle_config,
    command,
    load,
    overrides,
    run_in_process,
    same_weights,
    train_overrides,
    write_dataset,
)

from crossmoda.engines import read_history
from crossmoda.networks import ResUNet2d5

CHEN = "methods/chen2023"
THREE_CLASS = "methods/three_class"


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def parsed(*files, **values):
    parser = ConfigParser()
    parser.read_config([bundle_config(name) for name in files])
    parser.update(values)
    parser.parse()
    return parser


def test_chen_2023_numbers():
    parser = parsed("train", CHEN)
    value = parser.get_parsed_content
    assert value("patch_size") == [384, 384, 40]
    assert value("roi_size") == [384, 384, -1]
    assert value("spacing") == pytest.approx([1 / 3, 1 / 3, -1])
    assert [value(name) for name in ("percentiles", "intensity_range")] == [[5, 95], [-1.0, 1.0]]
    assert [value(name) for name in ("max_epochs", "batch_size", "gradient_norm")] == [200, 10, 0.1]
    optimizer = value("optimizer")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 1e-4)
    factors = parser["lr_scheduler::lr_lambda"]
    assert value("lowest_learning_rate") == 2.3e-5
    assert (value("warmup_iterations"), value("warmup_start")) == (50, pytest.approx(1 / 3))
    assert factors["_target_"] == "crossmoda.engines.warmup_cosine_decay"
    loss = value("loss")
    assert loss is value("deep_loss")
    assert loss.class_weights.tolist() == [1, 5, 5]
    assert (loss.hard_labels, loss.hard_weight, loss.ce_factor, loss.output_decay) == ((1,), 15, 20, 0.5)
    assert (loss.dilation_sizes, loss.erosion_sizes) == ((7, 9, 11, 13, 15), ())
    net = value("network_def")
    assert abs(sum(p.numel() for p in net.parameters()) / 14.4e6 - 1) < 0.01
    image, tumour, cochlea = (value(f"{name}_intensity") for name in ("image", "VS", "cochlea"))
    assert image.ranges == ((0.6, 1.5),) * 3
    assert image.offset_std == 0.1
    assert tumour.ranges == ((0.8, 1.2),) * 3
    assert cochlea.ranges == ((0.5, 1.5), (0.3, 2.0), (0.5, 2.0))
    assert (tumour.labels, cochlea.labels) == ((1,), (2,))
    assert tumour.margin == cochlea.margin == (2, 2, 1)
    assert all(transform.prob == 1 for transform in (image, tumour, cochlea))
    incomplete, elastic = value("incomplete"), parser["elastic_affine"]
    assert (incomplete.prob, incomplete.axes, incomplete.fill) == (0.5, (1,), (-1.0, 0))
    assert incomplete.max_share == pytest.approx(1 / 3)
    assert (elastic["sigma_range"], elastic["magnitude_range"], elastic["prob"]) == ([3, 5], [100, 200], 0.5)
    assert elastic["rotate_range"] == pytest.approx([np.pi / 6] * 3, abs=1e-4)
    assert (elastic["translate_range"], elastic["scale_range"]) == ([5] * 3, [0.2] * 3)
    assert [value(f"flip_{axis}").flipper.spatial_axis for axis in "xyz"] == [0, 1, 2]


def test_chen_2023_rounds_grow_and_have_three_classes():
    sizes = [parsed("train", CHEN, round=n).get_parsed_content("patch_size") for n in (1, 2, 3)]
    assert sizes == [[256, 256, 40], [320, 320, 40], [384, 384, 40]]
    value = parsed("train", CHEN, THREE_CLASS).get_parsed_content
    assert value("loss").class_weights.tolist() == [1, 5, 15, 5]
    assert value("loss").hard_labels == value("VS_intensity").labels == (1, 2)
    assert value("cochlea_intensity").labels == (3,)
    assert abs(sum(p.numel() for p in value("network_def").parameters()) / 14.4e6 - 1) < 0.01


@pytest.mark.parametrize("more", [[], [THREE_CLASS]], ids=str)
def test_chen_2023_fits_the_metadata(more, tmp_path):
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 4 if more else 3
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    files = [bundle_config(name) for name in ("inference", CHEN, *more)]
    verify_net_in_out("network_def", config_file=files, meta_file=str(tmp_path / "metadata.json"))
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] += 1  # and the check would notice
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out("network_def", config_file=files, meta_file=str(tmp_path / "metadata.json"))


def chen_item(seed=0):
    random = np.random.RandomState(seed)
    label = torch.zeros(1, 32, 32, 12)
    label[:, 8:14, 8:14, 3:8] = 1
    label[:, 18:26, 16:26, 2:10] = 2
    return {"image": torch.from_numpy(random.uniform(-1, 1, label.shape)).float() * 0.2 + label * 0.4, "label": label}


CHEN_OFF = {
    "incomplete::max_share": 0.0,
    "image_intensity": {"_target_": "Identityd", "keys": "image"},
    **{f"{name}_intensity::{key}": [1.0, 1.0] for name in ("VS", "cochlea") for key in ("contrast", "brightness")},
    **{f"{name}_intensity::gamma": [1.0, 1.0] for name in ("VS", "cochlea")},
    "flip_prob": 0.0,
    "elastic_affine::prob": 1.0,
    "elastic_affine::magnitude_range": [0, 0],
    "elastic_affine::rotate_range": [0, 0, 0],
    "elastic_affine::translate_range": [0, 0, 0],
    "elastic_affine::scale_range": [0, 0, 0],
    "sharpening::prob": 0.0,
    "brightness_prob": 1.0,
    "brightness_shift::offsets": 0.0,
    "brightness_scale::factors": 0.0,
}


def chen_augmentation(**values):
    parser = parsed("train", CHEN, patch_size=[32, 32, 12], **values)
    return Compose(parser.get_parsed_content("random_transforms"))


def test_chen_2023_augmentation_of_zero_strength_does_nothing():
    item = chen_augmentation(**CHEN_OFF).set_random_state(0)(chen_item())
    assert torch.allclose(item["image"], chen_item()["image"], atol=1e-4)
    assert torch.equal(item["label"], chen_item()["label"])


STRONG = {
    "incomplete": {"incomplete::max_share": 0.5, "incomplete::prob": 1.0},
    "image": {"image_intensity": ConfigParser.load_config_file(bundle_config(CHEN))["image_intensity"]},
    "VS": {f"VS_intensity::{key}": [0.8, 1.2] for key in ("contrast", "brightness", "gamma")},
    "cochlea": {f"cochlea_intensity::{key}": [0.5, 1.5] for key in ("contrast", "brightness", "gamma")},
    "flips": {"flip_prob": 1.0},
    "elastic": {"elastic_affine::magnitude_range": [100, 200]},
    "affine": {"elastic_affine::rotate_range": [0.5, 0.5, 0.5], "elastic_affine::scale_range": [0.2, 0.2, 0.2]},
    "sharpening": {"sharpening::prob": 1.0},
    "brightness": {"brightness_shift::offsets": 0.3, "brightness_scale::factors": 0.3},
}


@pytest.mark.parametrize("name", STRONG)
def test_each_chen_2023_augmentation_keeps_range_and_label(name):
    """The image tells the classes apart, so that a label that did not follow would be seen."""
    augment = chen_augmentation(**{**CHEN_OFF, **STRONG[name]}).set_random_state(1)
    original = chen_item()
    item = augment(chen_item())
    image, label = item["image"], item["label"]
    assert not torch.allclose(image, original["image"], atol=1e-3)
    assert image.shape == label.shape == original["image"].shape
    assert image.min() >= -1
    assert image.max() <= 1
    assert set(label.unique().tolist()) <= {0.0, 1.0, 2.0}
    moving = name in ("incomplete", "flips", "elastic", "affine")
    assert torch.equal(label, original["label"]) != moving
    means = [float(image[(label == c) & (image > -1)].mean()) for c in (0, 1, 2)]
    if name in ("flips", "elastic", "affine", "incomplete"):
        assert means == pytest.approx([0.0, 0.4, 0.8], abs=0.12)
    if name in ("VS", "cochlea"):
        changed = label == {"VS": 1, "cochlea": 2}[name]
        assert torch.allclose(image[~changed], original["image"][~changed], atol=1e-4)


def test_chen_2023_whole_augmentation_keeps_range():
    augment = chen_augmentation(brightness_prob=0.5).set_random_state(0)
    items = [augment(chen_item(seed)) for seed in range(12)]
    assert all(item["image"].min() >= -1 and item["image"].max() <= 1 for item in items)
    assert all(torch.isfinite(item["image"]).all() for item in items)
    assert len({float(item["image"].sum()) for item in items}) == 12


def test_painted_targets_lie_in_chen_2023s_range():
    parser = parsed("train", CHEN, "methods/target_painting", painting_prob=1.0)
    names = parser["random_transforms"]
    assert names.index("@target_augmentation") < names.index("@image_intensity")
    painting = parser.get_parsed_content("target_augmentation").set_random_state(0)
    label = torch.zeros(1, 24, 24, 12)
    label[:, 4:12, 4:12, 2:8], label[:, 16:22, 16:22, 4:8] = 1, 2
    image = painting({"image": torch.full_like(label, -0.9), "label": label})["image"]
    inside = {index: image[label == index].mean().item() for index in (1, 2)}
    assert -0.6 < inside[1] < 0.3  # 0.25 to 0.6 of [-1, 1], edges softened
    assert 0.0 < inside[2] < 1.0  # 0.6 to 1
    assert image[0, 0, 0, 0] == pytest.approx(-0.9)


def test_chen_2023_samples_start_anywhere_and_short_scans_are_padded(data_list):
    values = {"data_list": str(data_list), "spacing": [0.8, 0.8, -1], "roi_size": [-1, -1, -1], "progress": False}
    parser = parsed("train", CHEN, patch_size=[32, 32, 40], **values)
    prepare = Compose(parser.get_parsed_content("deterministic_transforms"))
    item = prepare(parser.get_parsed_content("train_items")[0])
    assert item["image"].shape[-1] == item["label"].shape[-1] == 40
    assert (item["image"][..., :13] == -1).all()  # 14 slices in the middle of 40
    assert (item["label"][..., :13] == 0).all()
    assert item["image"][..., 14:26].min() == -1
    assert item["image"][..., 14:26].max() == 1
    crop = parsed("train", CHEN, patch_size=[4, 4, 3]).get_parsed_content("slice_sampling").set_random_state(0)
    volume = torch.arange(8.0).expand(1, 4, 4, 8)
    starts = {int(crop({"image": volume, "label": volume})["image"][0, 0, 0, 0]) for _ in range(80)}
    assert starts == set(range(6))


CHEN_SMALL = {"network_def::channels": [4, 4, 4, 4]}


@pytest.fixture(scope="module")
def chen_trained(data_list, tmp_path_factory):
    output = tmp_path_factory.mktemp("chen")
    run_in_process(["train", CHEN], train_overrides(data_list, output, max_epochs=2, batch_size=2, **CHEN_SMALL))
    return output


def test_chen_2023_segments_evaluates_and_exports(chen_trained, data_list, tmp_path):
    values = overrides(data_list, chen_trained, **CHEN_SMALL)
    run_in_process(["inference", CHEN], {**values, "output_dir": str(tmp_path / "seg")})
    out = nib.load(tmp_path / "seg" / "case_10_seg.nii.gz")
    assert out.shape == SHAPE
    assert np.array_equal(out.affine, nib.load(data_list.parent / "case_10_hrT2.nii.gz").affine)
    run_in_process(["evaluate", CHEN], {**values, "output_dir": str(tmp_path / "eval")})
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["all"]["n"] == 2
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(chen_trained / "model" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=[bundle_config("inference"), bundle_config(CHEN)],
        bundle_root=str(CONFIGS.parent),
        **CHEN_SMALL,
    )
    net = ResUNet2d5(channels=(4, 4, 4, 4)).eval()
    net.load_state_dict(load(chen_trained / "model" / "model.pt"))
    x = torch.rand(1, 1, 32, 16, 5)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)


def test_chen_2023_continues_and_ends_the_same(chen_trained, data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, max_epochs=2, batch_size=2, **CHEN_SMALL)
    stop = {"train::trainer::max_epochs": 1}  # as if killed: the schedule still knows of two
    run_in_process(["train", CHEN], {**values, **stop})
    run_in_process(["train", CHEN], values)
    whole, cut = (load(folder / "model" / "last.pt") for folder in (chen_trained, tmp_path))
    assert whole["epoch"] == cut["epoch"] == 2
    assert same_weights(whole["network"], cut["network"])
    assert whole["lr_scheduler"]["last_epoch"] == cut["lr_scheduler"]["last_epoch"] == whole["iteration"]
    assert read_history(chen_trained / "history.csv") == read_history(tmp_path / "history.csv")


def test_next_round_starts_from_the_weights_of_the_last(chen_trained, data_list, tmp_path, capfd):
    previous = chen_trained / "model" / "model.pt"
    values = train_overrides(data_list, tmp_path, learning_rate=1e-12, initial_weights=str(previous), **CHEN_SMALL)
    run_in_process(["train", CHEN], {**values, "round": 2})
    first, second = load(previous), load(tmp_path / "model" / "model.pt")
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    missing = {**values, "initial_weights": str(tmp_path / "none.pt"), "resume": False}
    with pytest.raises(SystemExit):
        run_in_process(["train", CHEN], missing)
    assert "none.pt is missing" in capfd.readouterr().err


def test_two_processes_train_chen_2023_together(chen_trained, data_list, tmp_path):
    previous = chen_trained / "model" / "model.pt"
    values = {"max_epochs": 2, "val_fraction": 0.5, "batch_size": 1, "learning_rate": 1e-12, **CHEN_SMALL}
    values = train_overrides(data_list, tmp_path, initial_weights=str(previous), **values)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    words = command(["train", CHEN, "multi_gpu_train"], values, executable=torchrun)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = load(previous), load(tmp_path / "model" / "model.pt")
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2]


def test_largest_tumour_of_three_classes_is_the_union():
    parser = parsed("inference", THREE_CLASS)
    parser["postprocessing::transforms"] = parser["postprocessing::transforms"][-1:]
    parser.parse()
    pred = torch.zeros(1, 12, 8, 4)
    pred[0, 0:2, 0:3] = 1
    pred[0, 2:3, 0:3] = 2
    pred[0, 6:8, 6, 0] = 2
    pred[0, 9, 0] = pred[0, 9, 6] = 3
    expected = pred.clone()
    expected[0, 6:8, 6, 0] = 0
    assert torch.equal(parser.get_parsed_content("postprocessing")({"pred": pred})["pred"], expected)


def test_chen_2023_trains_and_segments_at_the_phantoms_size(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, **CHEN_SMALL)
    run_in_process(["train", CHEN, "phantom"], values)
    row = read_history(tmp_path / "history.csv")[0]
    assert row["loss"] > 1  # 20 times the cross entropy: the method's loss, not the phantom's
    run_in_process(["inference", CHEN, "phantom"], overrides(data_list, tmp_path, **CHEN_SMALL))
    assert (tmp_path / "case_10_seg.nii.gz").is_file()


def test_chen_2023_takes_prepared_volumes_as_they_are(tmp_path):
    """Volumes of scripts/prepare.py lie in [-1, 1], translations of them in 0 to 1000."""
    for low, high in ((-1.0, 1.0), (0.0, 1000.0)):
        volume = np.random.RandomState(0).uniform(low, high, (16, 16, 6)).astype(np.float32)
        volume.flat[:2] = low, high
        volume[..., 5] = low
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii.gz")
        for last in ("prepared", "preparation"):
            parser = parsed("inference", CHEN, last, patch_size=[16, 16, 8], preparation="none")
            parser["recipe_preprocessing"] = (
                parser["preprocessing::transforms"][0]
                if last == "prepared"
                else {"_target_": "LoadImaged", "keys": "image", "image_only": True, "ensure_channel_first": True}
            )
            parser.parse()
            out = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "scan.nii.gz")})["image"]
            expected = 2 * (volume - low) / (high - low) - 1
            assert np.allclose(out[0, ..., 1:7].numpy(), expected, atol=1e-5)
            assert (out[..., [0, 7]] == -1).all()
