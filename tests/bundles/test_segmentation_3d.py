"""The segmentation-3d bundle (nnU-Net), run as a user runs it, on tiny synthetic scans."""

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
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from segmentation3d_bundle import (
    CONFIGS,
    KERNELS,
    SLICES,
    STRIDES,
    bundle_config,
    command,
    overrides,
    parsed,
    run_in_process,
    train_overrides,
)
from segmentation_bundle import ROOT, ellipsoid, load, oblique_affine, same_weights, write_case, write_dataset

from crossmoda.engines import read_history
from crossmoda.labels import CLASS_NAMES
from crossmoda.networks import DeepSupervisionDynUNet

TWO_D = "methods/nnunet_2d"


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data_list, tmp_path_factory):
    """Output folder of a training of two epochs."""
    output = tmp_path_factory.mktemp("trained")
    run_in_process(["train"], train_overrides(data_list, output, max_epochs=2))
    return output


def small_network():
    return DeepSupervisionDynUNet(1, 3, STRIDES, KERNELS, STRIDES[1:], [4, 4, 4, 4], num_heads=1)


# --- the bundle's form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata", "methods/nnunet_2d_metadata"])
def test_metadata_follows_the_schema(name):
    schema = json.loads((ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json").read_text())
    metadata = json.loads((CONFIGS / f"{name}.json").read_text())
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
    parser = parsed("train")
    for name in ("train::dataset::data", "validate::dataset::data", "train::trainer::max_epochs", "network"):
        assert name in parser
    assert isinstance(parser["train::handlers"], list)
    assert all(isinstance(handler, dict) for handler in parser["train::handlers"])
    assert parser["train::trainer::train_handlers"] == "@train::handlers"


PLAN = [
    *("dimensions", "spacing", "patch_size", "strides", "kernel_sizes", "decoder_kernel_sizes", "features"),
    *("upsample_kernel_sizes", "deep_supervision_heads", "nonzero_mask", "resample_z_nearest", "mirror_axes"),
]


def test_train_inference_and_evaluate_agree():
    configs = {name: ConfigParser.load_config_file(bundle_config(name)) for name in ("train", "inference", "evaluate")}
    same = "roi_size patch_divisor window_size window_batch percentiles intensity_range percentile_scaling z_score"
    for name in (*PLAN, *same.split(), "normalisation", "image_order", "num_classes", "tumour_labels", "network_def"):
        assert configs["train"][name] == configs["inference"][name] == configs["evaluate"][name], name
    # The same steps on the image, but for what concerns the label; inference may look at less of it.
    on_images = []
    for step in configs["train"]["deterministic_transforms"]:
        if isinstance(step, str):
            on_images.append(step)
        elif "image" in step["keys"]:
            step = {**step, "keys": "image"}
            step["order"] = step["order"][:1] if "order" in step else None
            on_images.append({key: value for key, value in step.items() if value is not None or key == "labels"})
    steps = configs["inference"]["preprocessing"]["transforms"]
    assert on_images == [step for step in steps if "Localise" not in str(step)]
    # evaluate.yaml is inference.yaml with labels to compare with.
    different = {"input", "data_list", "dataset", "dataset_dir", "run", "imports"}
    for name in configs["inference"].keys() - different:
        assert configs["evaluate"][name] == configs["inference"][name], name


def test_raw_scans_of_a_recipe_take_the_steps_of_prepared_ones():
    inference = ConfigParser.load_config_file(bundle_config("inference"))["preprocessing"]["transforms"]
    recipe = ConfigParser.load_config_file(bundle_config("preparation"))["preprocessing"]["transforms"]
    kept = [step for step in inference if step in recipe]
    assert recipe == ["@recipe_preprocessing", *kept]
    left_out = [step["_target_"] for step in inference if step not in recipe]
    known = {"LoadImaged", "Orientationd", "crossmoda.transforms.SplineSpacingd", "CenterSpatialCropd"}
    assert known <= set(left_out) <= known | {"crossmoda.registration.LocaliseEarsd"}
    prepared = ConfigParser.load_config_file(bundle_config("prepared"))
    assert prepared["spacing"] == prepared["roi_size"] == [-1, -1, -1]


@pytest.mark.parametrize(("files", "metadata"), [([], "metadata"), ([TWO_D], f"{TWO_D}_metadata")], ids=["3D", "2D"])
def test_network_fits_the_metadata(files, metadata, tmp_path):
    """The full networks on the smallest input that the metadata name."""
    config = [bundle_config(name) for name in ("inference", *files)]
    content = json.loads((CONFIGS / f"{metadata}.json").read_text())
    verify_net_in_out("network_def", config_file=config, meta_file=str(CONFIGS / f"{metadata}.json"), p=2, n=2)
    content["network_data_format"]["outputs"]["pred"]["num_channels"] += 1  # and the check would notice
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out("network_def", config_file=config, meta_file=str(tmp_path / "metadata.json"), p=2, n=2)


def test_export_to_torchscript(trained, tmp_path):
    exported = tmp_path / "model.ts"
    network = {"strides": STRIDES, "kernel_sizes": KERNELS, "features": [4, 4, 4, 4]}
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(trained / "model" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=bundle_config("inference"),
        bundle_root=str(CONFIGS.parent),
        **network,
    )
    net = small_network().eval()
    net.load_state_dict(load(trained / "model" / "model.pt"))
    x = torch.rand(1, 1, 32, 16, 8)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)


# --- training -----------------------------------------------------------------------------------------------------


def test_training_writes_weights_state_and_history(trained):
    small_network().load_state_dict(load(trained / "model" / "model.pt"))
    rows = read_history(trained / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "val_mean_dice", "val_dice_VS", "val_dice_cochlea"} <= rows[0].keys()
    assert load(trained / "model" / "last.pt")["iteration"] == 4  # two an epoch, whatever the number of cases


def test_finished_run_ends_at_once(trained, data_list):
    before = load(trained / "model" / "last.pt")
    run_in_process(["train"], train_overrides(data_list, trained, max_epochs=2))
    after = load(trained / "model" / "last.pt")
    assert same_weights(before["network"], after["network"])
    assert after["epoch"] == 2


@pytest.mark.parametrize(
    ("files", "values"),
    [
        ([], {"dummy_2d": False, "resample_z_nearest": False, "nonzero_mask": True, "fold": 1, "num_folds": 2}),
        ([], {"amp": True, "patch_size": [48, 48, 8], "strides": STRIDES, "kernel_sizes": KERNELS}),
        (["phantom"], {}),
        ([TWO_D], SLICES),
        ([TWO_D, "phantom"], SLICES),
        (["prepared"], {"spacing": [-1, -1, -1]}),
        (["methods/target_painting"], {}),
        (["methods/target_painting", "phantom"], {}),
    ],
    ids=str,
)
def test_each_overlay_trains_and_segments(files, values, data_list, tmp_path):
    run_in_process(["train", *files], train_overrides(data_list, tmp_path, **values))
    row = read_history(tmp_path / "history.csv")[0]
    assert np.isfinite(row["loss"])
    assert all(torch.isfinite(weight).all() for weight in load(tmp_path / "model" / "model.pt").values())
    values = overrides(data_list, tmp_path, section="target_validation", **values)
    run_in_process(["inference", *files], values | {"output_dir": str(tmp_path / "out")})
    for case in ("case_10", "case_11"):
        raw, out = (
            nib.load(path) for path in (data_list.parent / f"{case}_hrT2.nii.gz", tmp_path / f"out/{case}_seg.nii.gz")
        )
        assert out.shape == raw.shape
        assert np.array_equal(out.affine, raw.affine)


def test_phantom_plans_are_valid_networks():
    """The phantom's own sizes, in 3D and in slices: patches fit the strides, and autocast's limit on CPUs."""
    for files, depth in ((["phantom"], 28), ([TWO_D, "phantom"], 1)):
        value = parsed("train", *files).get_parsed_content
        patch, divisor = value("patch_size"), value("patch_divisor")
        assert patch == [64, 80, depth]
        assert all(size % by == 0 for size, by in zip(patch, divisor, strict=True))
        assert patch[0] // divisor[0] >= 3
        net = value("network_def").train()
        outputs = net(torch.zeros(1, 1, *patch))
        assert len(outputs) == len(value("strides")) - 2
        assert outputs[0].shape == (1, 3, *patch)


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
    values = train_overrides(data_list, tmp_path, max_epochs=2, val_fraction=0.5)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    words = command(["train", "multi_gpu_train"], values, executable=torchrun)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=180, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    small_network().load_state_dict(load(tmp_path / "model" / "model.pt"))
    assert [row["epoch"] for row in read_history(tmp_path / "history.csv")] == [1, 2]
    assert load(tmp_path / "model" / "last.pt")["iteration"] == 4


def test_plain_mlflow_tracking(data_list, tmp_path):
    values = train_overrides(data_list, tmp_path, tracking="mlflow", experiment_name="segmentation_test")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    words = command(["train"], values)
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=180, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    with sqlite3.connect(tmp_path / "mlruns.db") as store:
        names = {name for (name,) in store.execute("select distinct key from metrics")}
    assert {"train_loss", "val_mean_dice"} <= names


def test_folds_train_on_different_cases(data_list, tmp_path):
    held_out = []
    for fold in range(4):
        values = train_overrides(data_list, tmp_path, fold=fold, num_folds=4)
        workflow = ConfigWorkflow([bundle_config("train")], logging_file=False, **values)
        training, validation = workflow.parser.get_parsed_content("split")
        assert (len(training), len(validation)) == (3, 1)
        held_out += [item["case"] for item in validation]
    assert sorted(held_out) == [f"case_{n}" for n in range(4)]


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
    words = command(["inference"], values)
    result = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=180, cwd=elsewhere)
    assert result.returncode == 0, result.stderr[-2000:]
    raw, out = nib.load(scan), nib.load(tmp_path / "out" / "patient_seg.nii.gz")
    assert out.shape == raw.shape
    assert np.array_equal(out.affine, raw.affine)
    for field in ("sform_code", "qform_code", "pixdim"):
        assert np.array_equal(out.header[field], raw.header[field]), field
    assert out.get_data_dtype() == np.uint8
    assert set(np.unique(out.dataobj)) <= set(CLASS_NAMES)
    assert not list(elsewhere.iterdir())


def test_missing_and_foreign_weights_are_one_line(trained, tmp_path, capfd, data_list):
    for values, message in (
        (overrides(data_list, tmp_path / "none"), "is missing: train first"),
        (overrides(data_list, trained, features=[8, 4, 4, 4]), "is of another network"),
    ):
        with pytest.raises(SystemExit):
            run_in_process(["inference"], values)
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert message in errors[0]


def test_evaluate_writes_predictions_metrics_and_probabilities(trained, data_list, tmp_path):
    folds = [str(trained / "model" / "model.pt")] * 2
    values = overrides(data_list, trained, output_dir=str(tmp_path), ckpt_paths=folds, save_probabilities=True)
    run_in_process(["evaluate"], values)
    names = {path.name for path in tmp_path.iterdir()}
    files = {f"case_{n}_{what}.nii.gz" for n in (10, 11) for what in ("seg", "prob")}
    assert files | {"metrics.csv", "summary.json"} <= names
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["all"]["n"] == 2
    probabilities = nib.load(tmp_path / "case_10_prob.nii.gz")
    label = nib.load(tmp_path / "case_10_seg.nii.gz")
    assert probabilities.shape == (*label.shape, 3)
    # one network twice is that network
    run_in_process(["evaluate"], overrides(data_list, trained, output_dir=str(tmp_path / "one")))
    single = np.asarray(nib.load(tmp_path / "one" / "case_10_seg.nii.gz").dataobj)
    assert np.mean(single == np.asarray(label.dataobj)) > 0.999


class Echo(torch.nn.Module):
    """Takes the image's sign and size for the answer: the tumour is the only dark thing."""

    def forward(self, x):
        classes = torch.tensor([0.0, -4.0, 99.0], device=x.device).reshape(1, 3, 1, 1, 1)
        return -5 * (x - classes).abs()


@pytest.mark.parametrize("spacing", [(0.41, 0.41, 1.5), (0.5, 0.5, 1.0), (0.82, 0.82, 1.5)], ids=str)
@pytest.mark.parametrize("files", [[], [TWO_D]], ids=["3D", "2D"])
def test_round_trip_through_the_network_grid_keeps_the_tumour(files, spacing, tmp_path):
    shape = tuple(round(extent / edge) for extent, edge in zip((60, 56, 40), spacing, strict=True))
    affine = oblique_affine(12, spacing, shape)
    truth = ellipsoid(affine, shape, (3, -2, 1), (5, 4.5, 6))
    image = np.full(shape, 1000, dtype=np.int16)
    image[truth] = 500
    share = truth.mean()  # z-scores: 0 nearly everywhere, the tumour at -sqrt(1 / share)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "scan_hrT2.nii.gz")
    values = {"input": str(tmp_path / "scan_hrT2.nii.gz"), "output_dir": str(tmp_path), "progress": False, "amp": False}
    values |= {"overlap": 0.0, "mirror_axes": [], "window_batch": 1, "localise": False}
    parser = parsed("inference", *files, **values)
    net = Echo()
    net.forward = lambda x: Echo.forward(net, 4 * x * share**0.5)
    parser["network"] = net
    parser.parse()
    parser.get_parsed_content("evaluator").run()
    found = np.asarray(nib.load(tmp_path / "scan_seg.nii.gz").dataobj) == 1
    # nnU-Net takes the nearest of slices 1 mm thick for slices of 1.5 mm
    least = 0.95 if spacing[2] == 1.0 and not files else 0.97
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= least


def test_scan_with_an_empty_border_keeps_its_grid(trained, tmp_path):
    """Cropping to the nonzero region is undone."""
    write_case(tmp_path, "whole", 3)
    whole = nib.load(tmp_path / "whole_hrT2.nii.gz")
    framed = np.pad(np.asarray(whole.dataobj) + 1, [(9, 4), (3, 6), (2, 5)])
    affine = whole.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [9, 3, 2]
    nib.save(nib.Nifti1Image(framed, affine), tmp_path / "framed_hrT2.nii.gz")
    for name in ("whole", "framed"):
        values = overrides(None, trained, input=str(tmp_path / f"{name}_hrT2.nii.gz"), output_dir=str(tmp_path))
        run_in_process(["inference"], values)
    inner = np.asarray(nib.load(tmp_path / "framed_seg.nii.gz").dataobj)
    assert inner.shape == framed.shape
    expected = np.pad(np.asarray(nib.load(tmp_path / "whole_seg.nii.gz").dataobj), [(9, 4), (3, 6), (2, 5)])
    assert np.mean(inner == expected) > 0.99
