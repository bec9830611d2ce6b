"""The koos-classifier bundle's network, run as a user runs it, on tiny synthetic scans."""

from __future__ import annotations

import csv
import json
import subprocess
import time

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from koos_bundle import (
    CONFIGS,
    ROOT,
    bundle_config,
    command,
    inference_overrides,
    load,
    run_in_process,
    same_weights,
    save,
    sizes,
    train_overrides,
    write_dataset,
)
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

from crossmoda.engines import read_history
from crossmoda.networks import MSFKoosNet

SCHEMA = ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json"
SMALL = {"network_def::features": 4, "network_def::n_blocks": 1, "network_def::hidden": 8, "network_def::projection": 4}
OVERLAYS = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob("methods/*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("koos") / "data")


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrained")
    run_in_process(["pretrain"], train_overrides(data, output))
    return output


def finetune_overrides(data, pretrained, output, **more):
    values = {"initial_weights": str(pretrained / "model/model.pt"), "learning_rate": 0.01}
    return train_overrides(data, output, **values | more)


@pytest.fixture(scope="module")
def finetuned(data, pretrained, tmp_path_factory):
    """Output folders of both folds."""
    outputs = []
    for fold in (0, 1):
        outputs.append(tmp_path_factory.mktemp(f"fold{fold}"))
        run_in_process(["finetune"], finetune_overrides(data, pretrained, outputs[-1], fold=fold))
    return outputs


def grades(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- the bundle's form ------------------------------------------------------------------------------------------------


def test_metadata_follows_the_schema():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["version"] in metadata["changelog"]
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == ConfigParser.load_config_file(bundle_config("inference"))["crop_size"]


@pytest.mark.parametrize("name", ["pretrain", "finetune", "inference"])
def test_properties(name, data, pretrained, finetuned):
    if name == "inference":
        values, kind = inference_overrides(data, finetuned[0]), "infer"
    elif name == "finetune":
        values, kind = finetune_overrides(data, pretrained, finetuned[0]), "train"
    else:
        values, kind = train_overrides(data, pretrained), "train"
    workflow = ConfigWorkflow([bundle_config(name)], workflow_type=kind, logging_file=False, **values)
    workflow.initialize()
    assert workflow.check_properties() == []
    for key, entry in ({"train": TrainProperties, "infer": InferProperties}[kind] | MetaProperties).items():
        if entry["required"]:
            assert entry["id"] in workflow.parser, key


def test_stages_agree():
    names = ("pretrain", "finetune", "inference")
    pretrain, finetune, inference = (ConfigParser.load_config_file(bundle_config(name)) for name in names)
    same = "spacing roi_size percentiles crop_size features n_blocks hidden projection mask_join feature_dropout"
    for name in (*same.split(), "memory_format"):
        assert pretrain[name] == finetune[name] == inference[name], name
    assert inference["network_def"] == pretrain["network_def"] == finetune["network_def"]
    for name in (
        "deterministic_transforms",
        "random_transforms",
        "view_settings",
        "items",
        "split",
        "stack_modalities",
    ):
        assert pretrain[name] == finetune[name], name
    assert inference["preprocessing"]["transforms"][:-2] == pretrain["deterministic_transforms"]
    crop = inference["preprocessing"]["transforms"][-2]
    assert {key: value for key, value in crop.items() if key != "allow_missing_keys"} == finetune["crop"]


def test_network_fits_the_metadata():
    metadata = CONFIGS / "metadata.json"
    verify_net_in_out("network_def", config_file=bundle_config("inference"), meta_file=str(metadata), **SMALL)
    output = json.loads(metadata.read_text())["network_data_format"]["outputs"]["pred"]
    assert output["num_channels"] == 4  # grades


def test_export_to_torchscript(finetuned, tmp_path):
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(finetuned[0] / "model" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=bundle_config("inference"),
        bundle_root=str(CONFIGS.parent),
        **SMALL,
    )
    net = MSFKoosNet(4, 1, 8, 4).eval()
    net.load_state_dict(load(finetuned[0] / "model" / "model.pt"))
    x = torch.rand(1, 2, 16, 16, 8)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(exported)(x), net(x), atol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


def changed_parts(before, after):
    names = [name for name in after if not torch.equal(before[name], after[name])]
    return {name.removeprefix("head.").split(".")[0] for name in names}


def test_pretraining_leaves_the_translator_s_encoder(data, pretrained):
    state, translator = load(pretrained / "model/model.pt"), load(data / "msf_net.pt")
    encoder = {name: value for name, value in translator.items() if name.startswith("encoder.")}
    assert same_weights(encoder, {name: value for name, value in state.items() if name.startswith("encoder.")})
    assert [row["epoch"] for row in read_history(pretrained / "history.csv")] == [1, 2]


def test_finetuning_changes_the_last_layer_alone(pretrained, finetuned):
    before = load(pretrained / "model/model.pt")
    for output in finetuned:
        assert changed_parts(before, load(output / "model/last.pt")["network"]) == {"classifier"}
        assert changed_parts(before, load(output / "model/model.pt")) == {"classifier"}
        assert read_history(output / "history.csv")[0].keys() == {"epoch", "loss", "val_accuracy"}


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("not_frozen", {"encoder", "high_encoder", "classifier"}),
        ("no_pretraining", {"high_encoder", "classifier"}),
    ],
)
def test_ablations_train_what_they_say(method, parts, data, pretrained, tmp_path):
    values = finetune_overrides(data, pretrained, tmp_path)
    if method == "no_pretraining":
        del values["initial_weights"]
    run_in_process(["finetune", f"methods/{method}"], values)
    state = load(tmp_path / "model/last.pt")["network"]
    assert changed_parts(load(pretrained / "model/model.pt"), state) >= parts
    encoder = load(data / "msf_net.pt")["encoder.layers.0.weight"]
    assert torch.equal(encoder, state["encoder.layers.0.weight"]) == (method == "no_pretraining")


def test_held_out_cases_of_all_folds_are_all_cases(finetuned):
    rows = [row for output in finetuned for row in grades(output / "held_out/grades.csv")]
    assert sorted(row["case"] for row in rows) == [f"case_{n}" for n in range(8)]
    for row in rows:
        assert sum(float(row[f"p{grade}"]) for grade in (1, 2, 3, 4)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", ["methods/gating", "methods/supcon", "methods/target_painting"])
def test_each_method_goes_through_all_stages(method, data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_in_process(["pretrain", method], train_overrides(data, first, max_epochs=1))
    finetuning = [] if method == "methods/supcon" else [method]
    run_in_process(["finetune", *finetuning], finetune_overrides(data, first, second, max_epochs=1))
    overlay = ["methods/gating"] if method == "methods/gating" else []
    run_in_process(["inference", *overlay], inference_overrides(data, second))
    assert len(grades(second / "grades.csv")) == 2
    assert set(OVERLAYS) - {f"methods/{name}" for name in ("gating", "supcon", "target_painting")} == {
        "methods/no_pretraining",
        "methods/not_frozen",
    }


def test_phantom_overlay_shares_views_between_stages_and_folds(data, tmp_path):
    values = {
        "views": 2,
        "views_dir": str(tmp_path / "views"),
        "cases_per_grade": 1,
        "max_epochs": 1,
        "channels_last": 1,
    }
    for stage, extra in (("pretrain", {}), ("finetune", {"initial_weights": str(tmp_path / "model/model.pt")})):
        for fold in (0, 1):
            run_in_process(
                [stage, "phantom"], train_overrides(data, tmp_path, fold=fold, resume=False, **values | extra)
            )
    names = [path.name for path in (tmp_path / "views").iterdir()]
    assert len(names) == 16  # of each of 8 cases: random views, and one for validation
    state = load(tmp_path / "model/model.pt")
    assert torch.equal(state["encoder.layers.0.weight"], load(data / "msf_net.pt")["encoder.layers.0.weight"])


def test_killed_pretraining_continues_and_ends_the_same(data, tmp_path):
    epochs = 6
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_in_process(["pretrain"], train_overrides(data, whole, max_epochs=epochs))
    values = train_overrides(data, killed, max_epochs=epochs)
    process = subprocess.Popen(command(["pretrain"], values), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (killed / "model" / "last.pt").is_file():
            assert process.poll() is None, "ended before its first epoch"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert 1 <= load(killed / "model" / "last.pt")["epoch"] <= epochs
    run_in_process(["pretrain"], values)
    assert same_weights(load(killed / "model/model.pt"), load(whole / "model/model.pt"))
    assert read_history(killed / "history.csv") == read_history(whole / "history.csv")


def test_training_without_translations_is_one_line(data, tmp_path, capfd):
    values = train_overrides(data, tmp_path / "out")
    del values["translations"]
    with pytest.raises(SystemExit) as left:
        run_in_process(["pretrain"], values)
    assert left.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert "give --translations" in line
    assert not (tmp_path / "out").exists()


# --- inference --------------------------------------------------------------------------------------------------------


def test_one_scan_by_its_command_from_another_directory(data, finetuned, tmp_path):
    scan, mask = data / "hidden_0_hrT2.nii.gz", data / "masks/hidden_0_seg.nii.gz"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = [str(output / "model/model.pt") for output in finetuned]
    values = sizes(tmp_path / "out", input=str(scan), mask=str(mask), ckpt_paths=repr(paths))
    result = subprocess.run(
        command(["inference"], values), capture_output=True, encoding="utf-8", timeout=300, cwd=elsewhere
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (row,) = grades(tmp_path / "out/grades.csv")
    assert row["case"] == "hidden_0"
    assert json.loads((tmp_path / "out/hidden_0_koos.json").read_text())["grade"] == int(row["class"])
    assert not list(elsewhere.iterdir())


def test_folds_are_averaged_as_probabilities(data, finetuned, tmp_path):
    def probabilities(name, **more):
        run_in_process(["inference"], inference_overrides(data, tmp_path / name, **more))
        rows = grades(tmp_path / name / "grades.csv")
        return np.array([[float(row[f"p{grade}"]) for grade in (1, 2, 3, 4)] for row in rows])

    other = load(finetuned[1] / "model/model.pt")  # two stages of so few steps hardly differ between folds
    other["head.classifier.bias"] += torch.tensor([1.0, 0.0, -1.0, 0.5])
    torch.save(other, tmp_path / "model.pt")
    folders = [str(finetuned[0] / "model"), str(tmp_path)]
    alone = [probabilities(f"fold{n}", ckpt_dir=folder) for n, folder in enumerate(folders)]
    both = probabilities("both", ckpt_paths=[f"{folder}/model.pt" for folder in folders])
    assert not np.allclose(alone[0], alone[1], atol=0.1)
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-5)


def test_empty_mask_is_flagged_and_not_graded(data, finetuned, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "hidden_1_seg.nii.gz").write_bytes((data / "masks/hidden_1_seg.nii.gz").read_bytes())
    shape = nib.load(data / "hidden_0_hrT2.nii.gz").shape
    save(np.zeros(shape, dtype=np.uint8), masks / "hidden_0_seg.nii.gz")
    values = inference_overrides(data, finetuned[0], masks=str(masks), output_dir=str(tmp_path / "out"))
    run_in_process(["inference"], values)
    empty, full = grades(tmp_path / "out/grades.csv")
    assert (empty["case"], empty["class"], empty["flags"]) == ("hidden_0", "", "empty mask")
    assert full["class"] in "1234"
    (masks / "hidden_1_seg.nii.gz").write_bytes((masks / "hidden_0_seg.nii.gz").read_bytes())
    run_in_process(["inference"], {**values, "output_dir": str(tmp_path / "none")})
    assert [row["class"] for row in grades(tmp_path / "none/grades.csv")] == ["", ""]


def test_missing_mask_is_one_line_and_writes_nothing(data, finetuned, tmp_path, capfd):
    values = inference_overrides(data, finetuned[0], masks=str(tmp_path), output_dir=str(tmp_path / "out"))
    with pytest.raises(SystemExit):
        run_in_process(["inference"], values)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert "hidden_0_seg.nii.gz is missing" in line
    assert not (tmp_path / "out").exists()
