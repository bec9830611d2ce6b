"""methods/three_class.yaml of the segmentation bundles on top of each network, run as a user runs it."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, run, verify_net_in_out
from monai.metrics import compute_dice
from monai.transforms import Compose
from segmentation_bundle import ROOT, divide_tumours, load, overrides, train_overrides, write_dataset

from crossmoda.engines import read_history
from crossmoda.metrics import read_metrics

THREE = "methods/three_class"
FLAT, VOLUME = "segmentation-2.5d", "segmentation-3d"
NNUNET = {"network_def::channels": None, "iterations_per_epoch": 1, "mirror_axes": []}
# Overlays of a method and what makes it tiny; None takes an override of the 2.5D network's back.
METHODS = {
    (FLAT, "default"): ([], {"network_def::channels": [4, 4, 4, 4, 4]}),
    (FLAT, "vs_seg"): (
        ["methods/vs_seg"],
        {"patch_size": [32, 32, 16], "window_size": [32, 32, 16], "network_def::channels": [4, 4, 4, 4, 4, 4]},
    ),
    (FLAT, "chen2023"): (["methods/chen2023"], {"network_def::channels": [4, 4, 4, 4]}),
    (VOLUME, "default"): (
        [],
        NNUNET | {"patch_size": [32, 32, 16], "window_size": [32, 32, 16], "network_def::filters": [4] * 6},
    ),
    (VOLUME, "nnunet_2d"): (
        ["methods/nnunet_2d"],
        NNUNET
        | {"patch_size": [128, 64, 1], "window_size": [128, 64, 1], "network_def::filters": [4] * 7, "batch_size": 2},
    ),
    (VOLUME, "li2021"): (
        ["methods/li2021", "methods/li2021_attention"],
        {
            "iterations_per_epoch": 1,
            "patch_size": [32, 32, 16],
            "window_size": [32, 32, 16],
            "network_def::channels": [4, 4, 4, 4, 4],
        },
    ),
}
EACH = pytest.mark.parametrize("method", METHODS, ids="/".join)
COLUMNS = {"val_dice_extra", "val_dice_intra", "val_dice_VS", "val_dice_cochlea"}


def config(bundle, name):
    return str(ROOT / "bundles" / bundle / "configs" / f"{name}.yaml")


def tiny(method, values=()):
    """Overrides for a method's network, on top of `values`."""
    merged = dict(values) | METHODS[method][1]
    return {key: value for key, value in merged.items() if value is not None}


def files(method, first, *more):
    return [config(method[0], name) for name in (first, *METHODS[method][0], *more)]


def parsed(config_files, **values):
    parser = ConfigParser()
    parser.read_config(config_files)
    parser.update(values)
    parser.parse()
    return parser


def train(method, data_list, output, *more, **values):
    values = tiny(method, train_overrides(data_list, output)) | values
    run(config_file=files(method, "train", *more), logging_file=False, **values)
    return read_history(output / "history.csv")[-1]


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data_list(two_classes, tmp_path_factory):
    """A list of three classes."""
    return divide_tumours(two_classes, tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module", params=METHODS, ids="/".join)
def trained(request, data_list, tmp_path_factory):
    """A method and the output folder of its training on three classes."""
    output = tmp_path_factory.mktemp("trained")
    assert train(request.param, data_list, output, THREE).keys() >= COLUMNS
    return request.param, output


def test_predictions_and_metrics_have_three_classes(trained, data_list, two_classes, tmp_path):
    method, output = trained
    values = tiny(method, overrides(data_list, output))
    run(config_file=files(method, "evaluate", THREE), logging_file=False, **values | {"output_dir": str(tmp_path)})
    assert {"dice_VS", "dice_extra", "dice_intra", "dice_cochlea", "assd_boundary"} <= read_metrics(
        tmp_path / "metrics.csv"
    )[0].keys()
    assert set(np.unique(nib.load(tmp_path / "case_10_seg.nii.gz").dataobj)) <= {0, 1, 2, 3}
    network = parsed(files(method, "inference", THREE), **tiny(method)).get_parsed_content("network_def")
    network.load_state_dict(load(output / "model" / "model.pt"))
    # A truth of two classes has VS and cochlea alone.
    values |= {"data_list": str(two_classes), "output_dir": str(tmp_path / "two")}
    run(config_file=files(method, "evaluate", THREE), logging_file=False, **values)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert list(summary["all"]["dice"]) == ["VS", "cochlea", "mean"]


def test_exports_with_four_channels(trained, tmp_path):
    method, output = trained
    meta = metadata(method)
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(output / "model" / "model.pt"),
        meta_file=str(meta),
        config_file=files(method, "inference", THREE),
        bundle_root=str(ROOT / "bundles" / method[0]),
        **tiny(method),
    )
    net = parsed(files(method, "inference", THREE), **tiny(method)).get_parsed_content("network_def").eval()
    net.load_state_dict(load(output / "model" / "model.pt"))
    x = torch.rand(1, 1, 64, 64, 16)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)
        assert net(x).shape == (1, 4, *x.shape[2:])


def metadata(method):
    return ROOT / "bundles" / method[0] / "configs/methods/three_class_metadata.json"


@EACH
def test_network_fits_its_metadata(method, tmp_path):
    arguments = {"config_file": files(method, "inference", THREE), "bundle_root": str(tmp_path)}
    verify_net_in_out("network_def", meta_file=str(metadata(method)), **arguments)
    content = json.loads(metadata(method).read_text())
    content["network_data_format"]["outputs"]["pred"]["num_channels"] = 3  # and the check would notice
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out("network_def", meta_file=str(tmp_path / "metadata.json"), **arguments)


@pytest.mark.parametrize("bundle", sorted({bundle for bundle, _ in METHODS}))
def test_metadata_differs_in_the_classes_alone(bundle):
    configs = ROOT / "bundles" / bundle / "configs"
    own, common = (
        json.loads((configs / name).read_text()) for name in ("methods/three_class_metadata.json", "metadata.json")
    )
    classes = own["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(classes.values()) == ["background", "extra-meatal VS", "intra-meatal VS", "cochlea"]
    for content in (own, common):
        for key in ("label_classes", "pred_classes", "image_classes"):
            del content[key]
        for tensor in (
            *content["network_data_format"]["inputs"].values(),
            content["network_data_format"]["outputs"]["pred"],
        ):
            for key in ("spatial_shape", "value_range", "channel_def", "num_channels"):
                del tensor[key]
    assert own == common


ORDERS = [(method, [THREE, "phantom"]) for method in METHODS] + [((FLAT, "default"), ["phantom", THREE])]


@pytest.mark.parametrize(("method", "more"), ORDERS, ids=str)
def test_trains_and_segments_at_the_phantoms_size(method, more, data_list, tmp_path):
    values = tiny(method, train_overrides(data_list, tmp_path))
    values.pop("network_def::filters", None)  # phantom.yaml has fewer stages
    run(config_file=files(method, "train", *more), logging_file=False, **values)
    assert read_history(tmp_path / "history.csv")[0].keys() >= COLUMNS
    values = tiny(method, overrides(data_list, tmp_path))
    values.pop("network_def::filters", None)
    run(config_file=files(method, "inference", *more), logging_file=False, **values)
    assert (tmp_path / "case_10_seg.nii.gz").is_file()


@EACH
def test_the_same_list_serves_for_two_classes(method, data_list, tmp_path):
    row = train(method, data_list, tmp_path)
    assert {"val_dice_VS", "val_dice_cochlea"} <= row.keys()
    assert "val_dice_extra" not in row
    network = parsed(files(method, "inference"), **tiny(method)).get_parsed_content("network_def")
    network.load_state_dict(load(tmp_path / "model" / "model.pt"))
    values = {"data_list": str(data_list), "progress": False, "spacing": [0.8, 0.8, 1.7], "roi_size": [-1, -1, -1]}
    for more, classes in (([], {0, 1, 2}), ([THREE], {0, 1, 2, 3})):
        parser = parsed(files(method, "train", *more), **values, patch_size=[32, 32, 8])
        prepare = Compose(parser.get_parsed_content("deterministic_transforms"))
        label = prepare(parser.get_parsed_content("train_items")[0])["label"]
        assert set(label.unique().tolist()) == classes


@EACH
def test_a_list_of_two_classes_is_refused_in_one_line(method, two_classes, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        train(method, two_classes, tmp_path / "out", THREE)
    assert left.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"{two_classes} has labels without parts of the tumour" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [(FLAT, "default"), (VOLUME, "li2021")], ids="/".join)
def test_as_many_weights_as_classes(method):
    """Whatever comes last."""
    for more, count in (([], 3), (["phantom"], 3), ([THREE], 4), ([THREE, "phantom"], 4), (["phantom", THREE], 4)):
        value = parsed(files(method, "train", *more)).get_parsed_content
        assert len(value("class_weights")) == value("num_classes") == count
        assert len(value("patch_classes")) == count


def test_weights_of_chen_2023():
    value = parsed(files((FLAT, "chen2023"), "train", THREE)).get_parsed_content
    assert value("loss").class_weights.tolist() == [1, 5, 15, 5]
    assert value("loss").hard_labels == value("VS_intensity").labels == (1, 2)
    assert value("cochlea_intensity").labels == (3,)


TARGETS = ["_choi2021", "_latim2022", "_winner2023", ""]


@pytest.mark.parametrize("name", [f"target_augmentation{end}" for end in TARGETS] + ["target_painting"])
@pytest.mark.parametrize("three_first", [True, False], ids=["three_class first", "three_class last"])
def test_changes_of_the_targets_know_the_parts(name, three_first, data_list, tmp_path):
    """A factor for the whole tumour and one for the cochlea, which is class 3."""
    more = [THREE, f"methods/{name}"][:: 1 if three_first else -1]
    transform = parsed(files((FLAT, "default"), "train", *more)).get_parsed_content("target_augmentation")
    assert set(transform.labels) <= {(1, 2), (3,)}
    assert (1, 2) in transform.labels
    assert train((FLAT, "default"), data_list, tmp_path, *more).keys() >= COLUMNS


def test_validation_dice_of_the_union():
    parser = parsed(files((FLAT, "default"), "train", THREE))
    one_hot = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3]), 4).T.reshape(4, 4, 1, 1).float()
    swapped = one_hot[[0, 2, 1, 3]]
    output = [{"pred": swapped, "label": one_hot}]
    found = {}
    for name in parser["class_metrics"]:
        pred, label = parser.get_parsed_content(f"class_metrics::{name}::output_transform")(output)
        found[name] = float(compute_dice(pred[0][None], label[0][None]))
    assert found == {"val_dice_extra": 0, "val_dice_intra": 0, "val_dice_VS": 1, "val_dice_cochlea": 1}
