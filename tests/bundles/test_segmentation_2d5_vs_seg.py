"""The overlay methods/vs_seg.yaml of the segmentation-2.5d bundle, on tiny synthetic scans."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from monai.transforms import Compose
from segmentation_bundle import (
    CONFIGS,
    bundle_config,
    load,
    overrides,
    run_in_process,
    same_weights,
    train_overrides,
    write_dataset,
)

from crossmoda.engines import read_history
from crossmoda.networks import SupervisedAttentionUNet2d5

TARGET_OVERLAYS = sorted(path.stem for path in CONFIGS.glob("methods/target_*.yaml"))

# Six levels, small; more than one voxel at the bottom, because batches of one are normalised there.
VS_SEG = {"patch_size": [64, 32, 8], "window_size": [64, 32, 8], "network_def::channels": [4, 4, 4, 4, 4, 4]}


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data_list, tmp_path_factory):
    """Output folder of a training of two epochs."""
    output = tmp_path_factory.mktemp("vs_seg")
    run_in_process(["train", "methods/vs_seg"], train_overrides(data_list, output, max_epochs=2, **VS_SEG))
    return output


def test_numbers():
    parser = ConfigParser()
    parser.read_config([bundle_config("train"), bundle_config("methods/vs_seg")])
    numbers = ("max_epochs", "val_interval", "batch_size", "learning_rate", "weight_decay", "patch_size", "spacing")
    assert [parser[name] for name in numbers] == [300, 2, 1, 1e-4, 1e-7, [384, 384, 64], [-1, -1, -1]]
    assert [parser[f"lr_scheduler::{name}"] for name in ("step_size", "gamma")] == [100, 0.5]
    assert parser["optimizer::_target_"] == "torch.optim.Adam"
    net, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(3.45e6, rel=0.01)
    assert list(net.divisor) == parser["patch_divisor"] == [32, 32, 8]
    assert (loss.segmentation_loss.hardness, loss.weight) == (0.6, 1.0)


def test_draws_z_scores_and_flips_alone():
    parser = ConfigParser()
    parser.read_config([bundle_config("train"), bundle_config("methods/vs_seg")])
    parser["patch_size"] = [8, 8, 4]
    scan = 500 + 100 * torch.randn(1, 8, 8, 4)
    z_scores = parser.get_parsed_content("normalisation")({"image": scan})["image"]
    assert torch.allclose(z_scores, (scan - scan.mean()) / scan.std(correction=0), atol=1e-5)
    steps = Compose(parser.get_parsed_content("random_transforms"))
    steps.set_random_state(0)
    seen = [steps({"image": z_scores, "label": (z_scores > 0).float()}) for _ in range(8)]
    flipped = [torch.equal(item["image"], z_scores.flip(1)) for item in seen]
    assert {True, False} == set(flipped)
    for item, is_flipped in zip(seen, flipped, strict=True):
        assert torch.equal(item["image"], z_scores.flip(1) if is_flipped else z_scores)
        assert torch.equal(item["label"], (item["image"] > 0).float())


@pytest.mark.parametrize(("overlay", "size"), [(None, [64, 80, 28]), ("methods/vs_seg", [96, 96, 32])], ids=str)
def test_phantom_patches_suit_the_network(overlay, size):
    parser = ConfigParser()
    overlays = [overlay] if overlay else []
    parser.read_config([bundle_config(name) for name in ("train", *overlays, "phantom")])
    assert parser.get_parsed_content("patch_size") == parser.get_parsed_content("window_size") == size
    divisor = parser.get_parsed_content("network_def").divisor
    assert [n % by for n, by in zip(size, divisor, strict=True)] == [0, 0, 0]
    assert size[0] // divisor[0] >= 3  # see AutocastInferer
    assert parser["crop"] == "@crop_by_class"


def test_with_phantom_trains_and_infers(data_list, tmp_path):
    """The phantom's range of intensities, the method's network and loss."""
    configs = ["methods/vs_seg", "phantom"]
    values = {**VS_SEG, "patch_size": [96, 32, 8], "window_size": [96, 32, 8], "amp": True, "max_epochs": 2}
    run_in_process(["train", *configs], train_overrides(data_list, tmp_path, **values))
    assert all(torch.isfinite(weight).all() for weight in load(tmp_path / "model" / "model.pt").values())
    del values["max_epochs"]
    values = overrides(data_list, tmp_path, **values)
    run_in_process(["inference", *configs], values)
    assert (tmp_path / "case_10_seg.nii.gz").is_file()
    parser = ConfigParser()
    parser.read_config([bundle_config(name) for name in ("inference", *configs)])
    image = parser.get_parsed_content("normalisation")({"image": torch.rand(1, 8, 8, 8) * 900})["image"]
    assert (float(image.min()), float(image.max())) == pytest.approx((0, 1), abs=1e-6)


def test_is_evaluated_on_the_scans_grid(trained, data_list, tmp_path):
    values = overrides(data_list, trained, **VS_SEG) | {"output_dir": str(tmp_path)}
    run_in_process(["evaluate", "methods/vs_seg"], values)
    raw, out = nib.load(data_list.parent / "case_10_hrT2.nii.gz"), nib.load(tmp_path / "case_10_seg.nii.gz")
    assert out.shape == raw.shape
    assert np.array_equal(out.affine, raw.affine)
    assert json.loads((tmp_path / "summary.json").read_text())["all"]["n"] == 2


def test_trains_in_batches_of_two(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, batch_size=2, val_fraction=0.5, **VS_SEG)
    run_in_process(["train", "methods/vs_seg"], values)
    assert len(read_history(tmp_path / "history.csv")) == 1


def test_goes_on_where_it_stopped(trained, data_list, tmp_path):
    for epochs in (1, 2):
        values = train_overrides(data_list, tmp_path, max_epochs=epochs, **VS_SEG)
        run_in_process(["train", "methods/vs_seg"], values)
    whole, resumed = (load(folder / "model" / "last.pt") for folder in (trained, tmp_path))
    assert resumed["epoch"] == 2
    assert same_weights(whole["network"], resumed["network"])
    assert read_history(trained / "history.csv") == read_history(tmp_path / "history.csv")


def test_metadata_differs_in_the_image_alone():
    own, common = (
        json.loads((CONFIGS / name).read_text()) for name in ("methods/vs_seg_metadata.json", "metadata.json")
    )
    for metadata in (own, common):
        del metadata["image_classes"]
        image, pred = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
        del image["image"]["spatial_shape"], image["image"]["value_range"], pred["pred"]["spatial_shape"]
    assert own == common


def test_fits_its_metadata_and_exports(trained, tmp_path):
    configs = [bundle_config("inference"), bundle_config("methods/vs_seg")]
    metadata = str(CONFIGS / "methods/vs_seg_metadata.json")
    verify_net_in_out("network_def", config_file=configs, meta_file=metadata)
    channels = VS_SEG["network_def::channels"]
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "model" / "model.pt"),
        meta_file=metadata,
        config_file=configs,
        bundle_root=str(CONFIGS.parent),
        **{"network_def::channels": channels},
    )
    net = SupervisedAttentionUNet2d5(channels=channels).eval()
    net.load_state_dict(load(trained / "model" / "model.pt"))
    x = torch.rand(1, 1, 64, 32, 8)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(tmp_path / "model.ts")(x), net(x), atol=1e-5)


@pytest.mark.parametrize("name", TARGET_OVERLAYS)
def test_target_augmentations_find_black_at_zero_on_top_of_vs_seg(name):
    parser = ConfigParser()
    parser.read_config([bundle_config(item) for item in ("train", "methods/vs_seg", f"methods/{name}")])
    image = parser.get_parsed_content("normalisation")({"image": 100 + torch.rand(1, 4, 4, 4)})["image"]
    assert (float(image.min()), float(image.max())) == pytest.approx((0, 1), abs=1e-6)
