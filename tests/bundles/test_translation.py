"""The translation bundle: its metadata, its properties, training, resuming and inference through MONAI's commands."""

import json
import os
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, run, verify_net_in_out
from onnx.reference import ReferenceEvaluator
from translation_bundle import (
    CHANNELS,
    CONFIGS,
    METADATA,
    METHODS,
    ROOT,
    TINY,
    TINY_INFERENCE,
    config,
    files,
    metadata_file,
    oblique_lps,
    paths,
    save,
    train,
    write_data,
)

from crossmoda.engines import read_history


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Small source and target scans."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=METHODS)
def trained(request, data_list, tmp_path_factory):
    """A finished tiny training of each method: (method, output folder, checkpoint folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    train(request.param, data_list, folder)
    return request.param, folder / "out", folder / "models"


def test_metadata_follows_the_schema():
    schema = json.loads((ROOT / "shared/crossmoda/packaging/schemas/meta_schema_20240725.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    for method in METHODS:
        faults = validator.iter_errors(json.loads(Path(metadata_file(method)).read_text()))
        assert [fault.message for fault in faults] == []


@pytest.mark.parametrize("method", METADATA)
def test_metadata_of_a_method_differs_in_the_channels_alone(method):
    own, common = (json.loads(Path(metadata_file(name)).read_text()) for name in (method, None))
    for metadata in (own, common):
        for name in ("image_classes", "pred_classes"):
            del metadata[name]
        tensors = metadata["network_data_format"]
        for tensor in (tensors["inputs"]["image"], tensors["outputs"]["pred"]):
            del tensor["num_channels"], tensor["channel_def"]
    assert own == common


@pytest.mark.parametrize("method", METHODS)
def test_train_properties(method, data_list):
    workflow = ConfigWorkflow(
        config_file=files("train", method), workflow_type="train", logging_file=False, **TINY, data_list=data_list
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    wanted = "bundle_root data_list dataset_dir output_dir ckpt_dir device seed threads amp resume network_def network"
    wanted += (
        " train::preprocessing train::dataset train::dataset::data train::dataloader train::inferer train::handlers"
    )
    wanted += " train::trainer train::trainer::max_epochs validate::evaluator validate::dataset::data initialize run"
    assert [name for name in wanted.split() if name not in workflow.parser] == []
    assert isinstance(workflow.parser["train"]["handlers"], list)


def test_inference_properties(data_list, trained):
    method, _, ckpt_dir = trained
    workflow = ConfigWorkflow(
        config_file=files("inference", method),
        workflow_type="inference",
        logging_file=False,
        **TINY_INFERENCE,
        data_list=data_list,
        ckpt_dir=str(ckpt_dir),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("method", [None, *METHODS])
def test_network_takes_and_gives_what_the_metadata_says(method, tmp_path):
    overlay = [f"methods/{method}.yaml"] if method else []
    config_file = [str(CONFIGS / name) for name in ("inference.yaml", *overlay)]
    verify_net_in_out("network_def", meta_file=metadata_file(method), config_file=config_file, device="cpu")
    # and the check would notice
    wrong = tmp_path / "metadata.json"
    wrong.write_text('{"network_data_format::outputs::pred::num_channels": 2}')
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out(
            "network_def", meta_file=[metadata_file(method), str(wrong)], config_file=config_file, device="cpu"
        )


def test_checkpoint_exports_to_torchscript(trained, tmp_path):
    method, _, ckpt_dir = trained
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(ckpt_dir / "model.pt"),
        meta_file=metadata_file(method),
        config_file=files("inference", method),
        key_in_ckpt="",
        **TINY_INFERENCE,
    )
    x = torch.zeros(1, CHANNELS.get(method, 1), 20, 24)
    assert torch.jit.load(str(tmp_path / "model.ts"))(x).shape == x.shape


def test_checkpoint_exports_to_onnx(trained, tmp_path):
    """The graph, run by onnx' own reference, gives what the network gives."""
    method, _, ckpt_dir = trained
    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(ckpt_dir / "model.pt"),
        meta_file=metadata_file(method),
        config_file=files("inference", method),
        key_in_ckpt="",
        **TINY_INFERENCE,
    )
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph)
    network = config_network(method, ckpt_dir)
    shape = [d.dim_value or 1 for d in graph.graph.input[0].type.tensor_type.shape.dim]
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (result,) = ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: image.numpy()})
    with torch.no_grad():
        expected = network(image).numpy()
    assert np.abs(result - expected).max() < 1e-4


def config_network(method, ckpt_dir):
    parser = config("inference.yaml", f"methods/{method}.yaml", "phantom.yaml")
    parser.update({key: value for key, value in TINY_INFERENCE.items() if key in parser})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(ckpt_dir / "model.pt", weights_only=True))
    return network


def test_training_writes_checkpoints_history_and_pictures(trained):
    method, output_dir, ckpt_dir = trained
    state = torch.load(ckpt_dir / "model.pt", weights_only=True)
    parser = config("inference.yaml", f"methods/{method}.yaml")
    parser.update({key: value for key, value in TINY_INFERENCE.items() if key in parser})
    parser.get_parsed_content("network_def").load_state_dict(state)
    rows = read_history(output_dir / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "loss_discriminator_target", "val_selection_score"} <= set(rows[0])
    structure = "nce" if "cut" in method or method == "qs_attn" else "cycle"
    assert f"loss_{structure}_source" in rows[0]
    assert ("loss_segmentation_fake" in rows[1]) == (method in ("cyclegan_segmenter", "msf_net"))
    assert sorted(f.name for f in (output_dir / "pictures").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]


def test_finished_training_ends_at_once(trained, data_list):
    method, output_dir, ckpt_dir = trained
    before = (ckpt_dir / "last.pt").stat().st_mtime_ns
    train(method, data_list, output_dir.parent)
    assert (ckpt_dir / "last.pt").stat().st_mtime_ns == before


def test_killed_training_resumes_and_ends_the_same(trained, data_list, tmp_path):
    method, output_dir, ckpt_dir = trained
    options = {**TINY, **paths(data_list, tmp_path)}
    workflow = ConfigWorkflow(config_file=files("train", method), logging_file=False, **options)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")

    def kill(engine):
        if engine.state.epoch == 2:
            raise SystemExit("killed")

    trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
    with pytest.raises(SystemExit):
        workflow.run()
    train(method, data_list, tmp_path)
    for name in ("model.pt", "last.pt"):
        whole, resumed = (torch.load(d / name, weights_only=True) for d in (ckpt_dir, tmp_path / "models"))
        assert_same(whole, resumed)
    assert read_history(output_dir / "history.csv") == read_history(tmp_path / "out" / "history.csv")


def assert_same(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def test_inference_on_a_raw_scan_from_elsewhere(trained, tmp_path, monkeypatch):
    method, _, ckpt_dir = trained
    random = np.random.RandomState(1)
    affine = oblique_lps((1.1, 0.9, 4.0))
    save(random.randint(0, 900, (61, 70, 8)).astype(np.int16), affine, tmp_path / "raw_ceT1.nii.gz")
    monkeypatch.chdir(tmp_path)
    run(
        config_file=files("inference", method),
        input="raw_ceT1.nii.gz",
        output_dir="out",
        ckpt_dir=str(ckpt_dir),
        **TINY_INFERENCE,
    )
    raw, result = nib.load("raw_ceT1.nii.gz"), nib.load("out/raw_hrT2.nii.gz")
    assert result.shape == raw.shape
    assert np.array_equal(result.affine, raw.affine)
    assert np.array_equal(result.header.get_qform(), raw.header.get_qform())
    assert result.get_data_dtype() == np.int16
    assert result.get_fdata().min() >= 0
    assert result.get_fdata().max() <= 1000
    assert os.listdir("out") == ["raw_hrT2.nii.gz"]


def test_inference_of_an_identity_gives_the_scan_back_in_place(tmp_path):
    """Orientation, resampling, cropping and their inverses: with no network the scan must come back."""
    shape = (44, 40, 12)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    scan = (500 + 400 * np.sin(3 * x) * np.cos(2 * y) * np.sin(z + 0.3)).astype(np.int16)
    save(scan, oblique_lps((1.6, 1.6, 3.0)), tmp_path / "a_ceT1.nii.gz")
    run(
        config_file=files("inference", "cyclegan"),
        input=str(tmp_path / "a_ceT1.nii.gz"),
        output_dir=str(tmp_path),
        initialize=[],
        amp=False,
        **{**TINY_INFERENCE, "network_def": {"_target_": "torch.nn.Identity"}, "roi_size": [24, 24, -1]},
    )
    result = nib.load(tmp_path / "a_hrT2.nii.gz").get_fdata()
    inside = np.zeros(shape, bool)
    inside[10:34, 8:32] = True  # well within 24 voxels of 2 mm around the centre
    assert np.corrcoef(result[inside], scan[inside])[0, 1] > 0.99
    assert result[0].max() == 0  # outside the region of interest


def test_inference_of_a_data_list_pairs_translations_with_labels(trained, data_list, tmp_path):
    method, _, ckpt_dir = trained
    options = {"data_list": data_list, "output_dir": str(tmp_path), "ckpt_dir": str(ckpt_dir)}
    run(config_file=files("inference", method), **TINY_INFERENCE, **options)
    items = json.loads((tmp_path / "datalist.json").read_text())["source_training"]
    assert [item["image"] for item in items] == [f"s{i}_hrT2.nii.gz" for i in range(3)]
    for item in items:
        image, label = nib.load(tmp_path / item["image"]), nib.load(tmp_path / item["label"])
        assert image.shape == label.shape
        assert np.allclose(image.affine, label.affine)


def test_inference_without_weights_says_so_in_one_line(tmp_path, data_list, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(config_file=files("inference", "cyclegan"), data_list=data_list, ckpt_dir=str(tmp_path), **TINY_INFERENCE)
    assert exit_info.value.code == 2
    assert "model.pt is missing: train first" in capsys.readouterr().err


def test_training_without_a_data_list_says_so_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train("cyclegan", str(tmp_path / "none.json"), tmp_path)
    assert exit_info.value.code == 2
    assert "none.json is missing" in capsys.readouterr().err


def test_default_of_train_is_the_cyclegan_overlay():
    default, overlaid = config("train.yaml"), config("train.yaml", "methods/cyclegan.yaml")
    assert default.get() == overlaid.get()


PREPARING = ("methods/cyclegan_segmenter.yaml", "methods/cut.yaml", "methods/msf_net.yaml", "phantom.yaml")


@pytest.mark.parametrize("overlays", [[], *[[name] for name in PREPARING]])
def test_training_and_inference_prepare_alike(overlays):
    train_config, inference_config = config("train.yaml", *overlays), config("inference.yaml", *overlays)
    names = ("pixdim", "roi_size", "lower_percentile", "upper_percentile", "features", "n_blocks", "network_def")
    for name in names:
        assert train_config.get(name) == inference_config.get(name)
    strip = {"keys", "allow_missing_keys", "mode"}
    in_training = train_config["train"]["deterministic_transforms"]
    in_training = [t for t in in_training if t["keys"] != "label"]
    in_inference = inference_config["preprocessing"]["transforms"]
    for a, b in zip(in_training, in_inference, strict=True):
        assert {k: v for k, v in a.items() if k not in strip} == {k: v for k, v in b.items() if k not in strip}
