"""The segmentation-2.5d bundle, run as a user runs it, on tiny synthetic scans."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, run, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from segmentation_bundle import (
    CONFIGS,
    ROOT,
    bundle_config,
    command,
    ellipsoid,
    load,
    oblique_affine,
    overrides,
    run_in_process,
    same_weights,
    train_overrides,
    write_case,
    write_dataset,
)

from crossmoda.engines import read_history
from crossmoda.labels import CLASS_NAMES
from crossmoda.networks import UNet2d5


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data_list, tmp_path_factory):
    """Output folder of a training of two epochs."""
    output = tmp_path_factory.mktemp("trained")
    run_in_process(["train"], train_overrides(data_list, output, max_epochs=2))
    return output


# --- the bundle's form --------------------------------------------------------------------------------------------


def test_metadata_follows_the_schema():
    schema = json.loads((ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json").read_text())
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    assert metadata["schema"].endswith("meta_schema_20240725.json")
    assert metadata["version"] in metadata["changelog"]
    classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {int(key): value for key, value in classes.items()} == CLASS_NAMES


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("inference", "infer"), ("evaluate", "infer")])
def test_properties(name, kind, data_list, trained):
    values = overrides(data_list, trained)
    if kind == "train":
        values = train_overrides(data_list, trained)
    workflow = ConfigWorkflow([bundle_config(name)], workflow_type=kind, logging_file=False, **values)
    workflow.initialize()
    assert workflow.check_properties() == []
    properties = {"train": TrainProperties, "infer": InferProperties}[kind]
    for key, entry in (properties | MetaProperties).items():
        if entry["required"]:
            assert entry["id"] in workflow.parser, key


def test_ids_that_monai_label_needs():
    parser = ConfigParser()
    parser.read_config(bundle_config("train"))
    for name in ("train::dataset::data", "validate::dataset::data", "train::trainer::max_epochs", "network"):
        assert name in parser
    assert isinstance(parser["train::handlers"], list)
    assert all(isinstance(handler, dict) for handler in parser["train::handlers"])
    assert parser["train::trainer::train_handlers"] == "@train::handlers"


def test_train_inference_and_evaluate_agree():
    configs = {name: ConfigParser.load_config_file(bundle_config(name)) for name in ("train", "inference", "evaluate")}
    same = "spacing roi_size patch_size patch_divisor window_size percentiles intensity_range percentile_scaling"
    for name in (*same.split(), "normalisation", "attention", "norm", "network_def"):
        assert configs["train"][name] == configs["inference"][name] == configs["evaluate"][name], name
    # The same steps on the image, but for what concerns the label.
    on_images = []
    for step in configs["train"]["deterministic_transforms"]:
        if isinstance(step, str):
            if step != "@further_labels":
                on_images.append(step)
        elif "image" in step["keys"]:
            step = {**step, "keys": "image"}
            step["mode"] = step["mode"][0] if "mode" in step else None
            on_images.append({key: value for key, value in step.items() if value is not None or key == "labels"})
    at_inference = configs["inference"]["preprocessing"]["transforms"]
    localiser = next(n for n, step in enumerate(at_inference) if "LocaliseEarsd" in str(step))
    assert at_inference[localiser]["_disabled_"] == "$not @localise"
    assert at_inference[localiser - 1] == "@normalisation"  # by the whole scan, as in training
    assert on_images == at_inference[:localiser] + at_inference[localiser + 1 :]
    # evaluate.yaml is inference.yaml with labels to compare with.
    different = {"input", "data_list", "dataset", "dataset_dir", "run", "imports"}
    for name in configs["inference"].keys() - different:
        assert configs["evaluate"][name] == configs["inference"][name], name


def test_network_fits_the_metadata(tmp_path):
    verify_net_in_out("network_def", config_file=bundle_config("inference"), meta_file=str(CONFIGS / "metadata.json"))
    # and the check would notice
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] += 1
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out(
            "network_def", config_file=bundle_config("inference"), meta_file=str(tmp_path / "metadata.json")
        )


def test_export_to_torchscript(trained, tmp_path):
    network = {"channels": [4, 4, 4, 4, 4]}
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(trained / "model" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=bundle_config("inference"),
        bundle_root=str(CONFIGS.parent),
        **{f"network_def::{key}": value for key, value in network.items()},
    )
    net = UNet2d5(**network).eval()
    net.load_state_dict(load(trained / "model" / "model.pt"))
    x = torch.rand(1, 1, 32, 16, 8)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)


# --- training -----------------------------------------------------------------------------------------------------


def test_training_writes_weights_state_and_history(trained):
    state = load(trained / "model" / "model.pt")
    UNet2d5(channels=(4, 4, 4, 4, 4)).load_state_dict(state)
    rows = read_history(trained / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "val_mean_dice", "val_dice_VS", "val_dice_cochlea"} <= rows[0].keys()
    assert 0 < rows[0]["loss"] < 1


def test_finished_run_ends_at_once(trained, data_list):
    before = load(trained / "model" / "last.pt")
    run_in_process(["train"], train_overrides(data_list, trained, max_epochs=2))
    after = load(trained / "model" / "last.pt")
    assert same_weights(before["network"], after["network"])
    assert after["epoch"] == 2


# methods/three_class.yaml and methods/structures.yaml have tests of their own: they want other labels.
OVERLAYS = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.glob("methods/*.yaml")
    if path.stem not in ("three_class", "structures")
)


@pytest.mark.parametrize("overlays", [[name] for name in OVERLAYS] + [["phantom"], [*OVERLAYS[:1], "phantom"]], ids=str)
def test_each_overlay_trains(overlays, data_list, tmp_path):
    run_in_process(["train", *overlays], train_overrides(data_list, tmp_path))
    assert (tmp_path / "model" / "model.pt").is_file()


def test_folds_hold_out_each_case_once(data_list, tmp_path):
    held_out = []
    for fold in range(4):
        values = train_overrides(data_list, tmp_path, fold=fold, num_folds=4)
        workflow = ConfigWorkflow([bundle_config("train")], logging_file=False, **values)
        held_out += [item["case"] for item in workflow.parser.get_parsed_content("split")[1]]
    assert sorted(held_out) == [f"case_{n}" for n in range(4)]


def test_mixed_precision_trains(data_list, tmp_path):
    values = {"amp": True, "patch_size": [48, 48, 8], "window_size": [48, 48, 8], "max_epochs": 2}
    run_in_process(["train"], train_overrides(data_list, tmp_path, **values))
    assert all(torch.isfinite(weight).all() for weight in load(tmp_path / "model" / "model.pt").values())


def test_methods_change_what_they_say():
    def value(name, *overlays):
        parser = ConfigParser()
        parser.read_config([bundle_config(item) for item in ("train", *overlays)])
        return parser[name]

    assert value("gamma") == value("gamma", "methods/li2021") == [0.5, 2.0]
    assert value("gamma", "methods/li2021_gamma15") == [0.5, 1.5]
    target = value("target_augmentation::_target_", "methods/target_augmentation")
    assert target == "crossmoda.transforms.RandLabelIntensityd"


TARGET_AUGMENTATIONS = (
    "target_augmentation_choi2021",
    "target_augmentation_latim2022",
    "target_augmentation_winner2023",
    "target_painting",
)


def test_published_target_augmentations():
    def published(name):
        parser = ConfigParser()
        parser.read_config([bundle_config("train"), bundle_config(f"methods/{name}")])
        config = parser["target_augmentation"]
        return {**config, "labels": parser.get_parsed_content("target_augmentation::labels")}

    choi, latim, winner = (published(name) for name in TARGET_AUGMENTATIONS[:3])
    assert (choi["labels"], choi["ranges"], choi["prob"], choi["only_if"]) == ([[1]], [[0.5, 0.5]], 1.0, "halved")
    assert latim["labels"] == [[1], [1], 2]
    assert latim["volumes"] == [[2340, None], [None, 288], None]
    assert latim["ranges"] == [[0.7, 1.2, 1.5], [0.6, 0.8, 1.2], [2, 3, 4]]
    assert (winner["labels"], winner["ranges"]) == ([[1], 2], [[1.2, 2.0], [0.5, 1.0]])
    assert 0.1 <= winner["prob"] <= 0.2


def test_choi_2021_trains_on_each_volume_and_on_its_halved_copy(data_list, tmp_path):
    files = ["train", "methods/target_augmentation_choi2021"]
    workflow = ConfigWorkflow(
        [bundle_config(name) for name in files], logging_file=False, **train_overrides(data_list, tmp_path)
    )
    items = workflow.parser.get_parsed_content("train_items")
    cases = [item["case"] for item in workflow.parser.get_parsed_content("split")[0]]
    assert [(item["case"], item["halved"]) for item in items] == [(c, h) for h in (False, True) for c in cases]
    transform = workflow.parser.get_parsed_content("target_augmentation")
    item = {"image": torch.ones(1, 4, 4, 4), "label": torch.ones(1, 4, 4, 4)}
    assert [float(transform({**item, "halved": h})["image"].mean()) for h in (False, True)] == [1.0, 0.5]


@pytest.mark.parametrize("name", TARGET_AUGMENTATIONS)
def test_target_augmentations_do_no_harm_at_inference(name):
    plain, overlaid = ConfigParser(), ConfigParser()
    plain.read_config(bundle_config("inference"))
    overlaid.read_config([bundle_config("inference"), bundle_config(f"methods/{name}")])
    assert {key: overlaid[key] for key in plain.get()} == plain.get()


def test_trains_on_several_views_of_each_case(tmp_path):
    """What bundles/translation/configs/multi_view.yaml writes."""
    views = {view: str(write_dataset(tmp_path / view)) for view in ("cyclegan", "qs_attn")}
    for view in views:  # the views' labels are the same files
        change_labels(tmp_path / view / "datalist.json", tmp_path / "cyclegan")
    config_file = str(ROOT / "bundles/translation/configs/multi_view.yaml")
    run(config_file=config_file, logging_file=False, views=views, output_dir=str(tmp_path / "pool"))
    values = train_overrides(tmp_path / "pool" / "datalist.json", tmp_path / "out", val_fraction=0.25)
    workflow = ConfigWorkflow([bundle_config("train")], workflow_type="train", logging_file=False, **values)
    workflow.initialize()
    training, validation = (
        workflow.parser.get_parsed_content(f"{part}::dataset::data") for part in ("train", "validate")
    )
    assert (len(training), len(validation)) == (6, 2)
    assert len({item["case"] for item in validation}) == 1
    workflow.run()
    assert (tmp_path / "out" / "model" / "model.pt").is_file()


def change_labels(data_list, folder):
    content = json.loads(data_list.read_text())
    for item in content["source_training"]:
        item["label"] = os.path.relpath(folder / item["label"], data_list.parent)
    data_list.write_text(json.dumps(content))


def test_killed_training_continues_and_ends_the_same(data_list, tmp_path):
    epochs = 6
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_in_process(["train"], train_overrides(data_list, whole, max_epochs=epochs))

    values = train_overrides(data_list, killed, max_epochs=epochs)
    process = subprocess.Popen(command(["train"], values), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (killed / "model" / "last.pt").is_file():
            assert process.poll() is None, "ended before its first epoch"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    reached = load(killed / "model" / "last.pt")["epoch"]
    run_in_process(["train"], values)
    assert 1 <= reached <= epochs
    assert same_weights(load(killed / "model" / "last.pt")["network"], load(whole / "model" / "last.pt")["network"])
    assert same_weights(load(killed / "model" / "model.pt"), load(whole / "model" / "model.pt"))
    assert read_history(killed / "history.csv") == read_history(whole / "history.csv")


def test_two_processes_train_together(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, max_epochs=2, val_fraction=0.5, batch_size=1)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    words = command(["train", "multi_gpu_train"], values, executable=torchrun)
    result = subprocess.run(
        words, capture_output=True, encoding="utf-8", timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    UNet2d5(channels=(4, 4, 4, 4, 4)).load_state_dict(load(tmp_path / "model" / "model.pt"))
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2]


def test_plain_mlflow_tracking(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, tracking="mlflow", experiment_name="segmentation_test")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    result = subprocess.run(
        command(["train"], values), capture_output=True, encoding="utf-8", timeout=120, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    with sqlite3.connect(tmp_path / "mlruns.db") as store:
        names = {name for (name,) in store.execute("select distinct key from metrics")}
    assert {"train_loss", "val_mean_dice"} <= names


# --- inference and evaluation -----------------------------------------------------------------------------------


def test_inference_from_another_directory_keeps_the_scans_grid(trained, tmp_path):
    scan = tmp_path / "in" / "patient_hrT2.nii.gz"
    scan.parent.mkdir()
    write_case(scan.parent, "patient", 3)
    scan.parent.joinpath("patient_Label.nii.gz").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    values = overrides("", trained, input=str(scan), output_dir=str(tmp_path / "out"))
    del values["data_list"]
    result = subprocess.run(
        command(["inference"], values), capture_output=True, encoding="utf-8", timeout=120, cwd=elsewhere
    )
    assert result.returncode == 0, result.stderr[-2000:]
    raw, out = nib.load(scan), nib.load(tmp_path / "out" / "patient_seg.nii.gz")
    assert out.shape == raw.shape
    assert np.array_equal(out.affine, raw.affine)
    for field in ("sform_code", "qform_code", "pixdim"):
        assert np.array_equal(out.header[field], raw.header[field]), field
    assert out.get_data_dtype() == np.uint8
    assert set(np.unique(out.dataobj)) <= set(CLASS_NAMES)
    assert not list(elsewhere.iterdir())


def truncated(folder):
    path = folder / "scan_hrT2.nii.gz"
    write_case(folder, "scan", 1)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def flat(folder):
    path = folder / "slice_hrT2.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8), dtype=np.int16), np.eye(4)), path)
    return path


@pytest.mark.parametrize(("make", "message"), [(truncated, "truncated"), (flat, "a 3D volume is needed")])
def test_bad_scan_is_one_line_and_writes_nothing(make, message, trained, tmp_path, capfd):
    path = make(tmp_path)
    values = overrides(None, trained, input=str(path), output_dir=str(tmp_path / "out"))
    with pytest.raises(SystemExit) as left:
        run_in_process(["inference"], values)
    assert left.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(path) in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_missing_and_foreign_weights_are_one_line(trained, tmp_path, capfd, data_list):
    for values, message in (
        (overrides(data_list, tmp_path / "none"), "is missing: train first"),
        (
            overrides(data_list, trained, **{"network_def::channels": [8, 4, 4, 4, 4]}),
            "is of another network",
        ),
    ):
        with pytest.raises(SystemExit):
            run_in_process(["inference"], values)
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert message in errors[0]


def test_training_without_labels_is_one_line(data_list, tmp_path, capfd):
    content = json.loads(data_list.read_text())
    for item in content["source_training"]:
        del item["label"]
        item["image"] = str(data_list.parent / item["image"])
    path = tmp_path / "unlabelled.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        run_in_process(["train"], train_overrides(path, tmp_path / "out"))
    assert "has no label" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluate_writes_predictions_and_metrics(trained, data_list, tmp_path):
    run_in_process(["evaluate"], overrides(data_list, trained, output_dir=str(tmp_path)))
    names = {path.name for path in tmp_path.iterdir()}
    outputs = {f"case_{n}_seg.{ending}" for n in (10, 11) for ending in ("nii.gz", "json")}
    assert names == outputs | {"metrics.csv", "summary.json"}
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["all"]["n"] == 2


class Echo(torch.nn.Module):
    """Takes the image, which holds class numbers, for the answer."""

    def forward(self, x):
        classes = torch.arange(3, device=x.device).reshape(1, 3, 1, 1, 1)
        return -20 * (2 * x - classes).abs()


@pytest.mark.parametrize("radii", [(5, 4.5, 6), (9, 8, 10)], ids=["0.6 mL", "3 mL"])
@pytest.mark.parametrize("spacing", [(0.41, 0.41, 1.5), (0.5, 0.5, 1.0), (0.82, 0.82, 1.5)], ids=str)
def test_round_trip_through_the_network_grid_keeps_the_tumour(radii, spacing, tmp_path):
    shape = tuple(round(extent / edge) for extent, edge in zip((60, 56, 40), spacing, strict=True))
    affine = oblique_affine(12, spacing, shape)
    truth = ellipsoid(affine, shape, (3, -2, 1), radii)
    image = np.full(shape, 0, dtype=np.int16)
    image[truth] = 500
    image[0, 0, 0] = 1000  # so that percentiles 0 and 100 map VS to 0.5
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "scan_hrT2.nii.gz")
    parser = ConfigParser()
    parser.read_config([bundle_config("inference")])
    values = {"input": str(tmp_path / "scan_hrT2.nii.gz"), "output_dir": str(tmp_path), "progress": False, "amp": False}
    values |= {"patch_size": [96, 96, 32], "overlap": 0.0}
    for key, value in values.items():
        parser[key] = value
    parser["network"] = Echo()
    parser.parse()
    parser.get_parsed_content("evaluator").run()
    found = np.asarray(nib.load(tmp_path / "scan_seg.nii.gz").dataobj) == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= 0.97


def test_largest_component_is_kept_of_vs_only():
    parser = ConfigParser()
    parser.read_config(bundle_config("inference"))
    parser["postprocessing::transforms"] = parser["postprocessing::transforms"][-1:]
    parser.parse()
    pred = torch.zeros(1, 12, 8, 4)
    pred[0, 0:3, 0:3] = 1
    pred[0, 6, 6, 0] = 1
    pred[0, 9, 0] = pred[0, 9, 6] = 2
    out = parser.get_parsed_content("postprocessing")({"pred": pred})["pred"]
    expected = pred.clone()
    expected[0, 6, 6, 0] = 0
    assert torch.equal(out, expected)
