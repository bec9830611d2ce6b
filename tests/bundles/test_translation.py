"""The translation bundle: its metadata, its properties, training, resuming and inference through MONAI's commands."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, run, verify_net_in_out
from onnx.reference import ReferenceEvaluator

from crossmoda.data import write_datalist
from crossmoda.engines import read_history
from crossmoda.losses.perceptual import vgg19_shapes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles" / "translation" / "configs"
METHODS = ("cyclegan", "cyclegan_segmenter", "msf_net", "site_cyclegan", "cut", "cut_original", "fastcut", "qs_attn")
METADATA = {"msf_net": "methods/msf_net_metadata.json"}  # of networks with other channels
CHANNELS = {"msf_net": 3}
TINY = {
    "features": 4,
    "n_blocks": 1,
    "levels": 2,
    "nce_layers": ["padded", "down1", "down2", "block1"],
    "nce_features": 8,
    "n_patches": 16,
    "roi_size": [32, 32, -1],
    "crop_size": [24, 32],
    "pixdim": [2.0, 2.0, 3.0],
    "epoch_slices": 4,
    "batch_size": 2,
    "max_epochs": 2,
    "val_fraction": 0.4,
    "fake_segmentation_after": 1,
    "picture_interval": 1,
    "device": "$torch.device('cpu')",
    "progress": False,
}
INFERENCE_KEYS = ("features", "n_blocks", "levels", "roi_size", "pixdim", "device", "progress")
TINY_INFERENCE = {key: TINY[key] for key in INFERENCE_KEYS}


def files(workflow, method):
    return [
        str(CONFIGS / f"{workflow}.yaml"),
        str(CONFIGS / "methods" / f"{method}.yaml"),
        str(CONFIGS / "phantom.yaml"),
    ]


def metadata_file(method):
    return str(CONFIGS / METADATA.get(method, "metadata.json"))


def oblique_lps(spacing):
    """Affine of an LPS scan turned by 10 degrees about x."""
    angle = np.deg2rad(10)
    turn = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) @ np.diag([-1, -1, 1]) @ np.diag(spacing)
    affine[:3, 3] = (40, 35, -15)
    return affine


def save(array, affine, path):
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    nib.save(image, path)


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Heads with a tumour and a cochlea, bright and dark on ceT1, grey and bright on hrT2; int16."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    shape = (40, 36, 10)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    head = x**2 + y**2 < 0.9
    tumour = (x - 0.3) ** 2 + y**2 + z**2 < 0.04
    cochlea = (x + 0.3) ** 2 + y**2 + z**2 < 0.03
    affine = oblique_lps((2.0, 2.0, 3.0))
    sections = {"source_training": [], "target_training": []}
    for i in range(3):
        noise = random.rand(*shape) * 30
        source = {
            "case": f"s{i}",
            "site": "ldn",
            "image": f"{folder}/s{i}_ceT1.nii.gz",
            "label": f"{folder}/s{i}_Label.nii.gz",
            "parcellation": f"{folder}/s{i}_GIFoutput.nii.gz",
        }
        target = {"case": f"t{i}", "site": "ldn", "image": f"{folder}/t{i}_hrT2.nii.gz"}
        save((head * 300 + tumour * 500 - cochlea * 200 + noise).astype(np.int16), affine, source["image"])
        save(np.where(tumour, 1, np.where(cochlea, 2, 0)).astype(np.uint8), affine, source["label"])
        save((head * (1 + (x > 0) + 2 * (y > 0))).astype(np.int16), affine, source["parcellation"])
        save((head * 300 + cochlea * 600 + noise).astype(np.int16), affine, target["image"])
        sections["source_training"].append(source)
        sections["target_training"].append(target)
    write_datalist(sections, folder / "datalist.json")
    return str(folder / "datalist.json")


@pytest.fixture(scope="module", params=METHODS)
def trained(request, data_list, tmp_path_factory):
    """A finished tiny training of each method: (method, output folder, checkpoint folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    train(request.param, data_list, folder)
    return request.param, folder / "out", folder / "models"


def train(method, data_list, folder, **options):
    run(config_file=files("train", method), **{**TINY, **paths(data_list, folder), **options})


def paths(data_list, folder):
    return {"data_list": data_list, "output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models")}


def config(*names):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser


def test_metadata_follows_the_schema():
    schema = json.loads((ROOT / "tests" / "data" / "schemas" / "meta_schema_20240725.json").read_text())
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


def test_shin_2021_numbers():
    shin = config("train.yaml", "methods/cyclegan_segmenter.yaml")
    weights = [shin[f"lambda_{name}"] for name in ("cycle", "identity", "segmentation")]
    assert weights == [10, 5, 100]
    assert (shin["max_epochs"], shin["learning_rate"], shin["fake_segmentation_after"]) == (50, 1e-4, 5)


def test_han_2022_numbers():
    han = config("train.yaml", "methods/msf_net.yaml")
    terms = ("reconstruction", "perceptual", "cycle", "segmentation", "parcellation")
    assert [han[f"lambda_{name}"] for name in terms] == [10, 0.01, 10, 1, 1]
    assert (han["max_epochs"], han["batch_size"], han["learning_rate"], han["betas"]) == (1000, 1, 2e-4, [0.9, 0.999])
    assert (han["slices"], han["parcellation_classes"], han["n_blocks"], han["features"]) == (3, 209, 6, 64)
    assert (han["pixdim"], han["roi_size"]) == ([0.4102, 0.4102, 1.0], [256, 256, 80])
    factor = han.get_parsed_content("poly_factor")
    assert [2e-4 * factor(epoch) for epoch in (0, 1000)] == pytest.approx([2e-4, 1e-5])
    networks = [
        han.get_parsed_content(f"{name}_def") for name in ("network", "source_decoder", "segmenter", "parcellator")
    ]
    assert sum(p.numel() for network in networks for p in network.parameters()) == pytest.approx(37.9e6, rel=0.01)


def without_parcellation(data_list, path):
    content = json.loads(Path(data_list).read_text())
    folder = Path(data_list).parent
    for items in content.values():
        for item in items:
            item.pop("parcellation", None)
            item.update({key: str(folder / item[key]) for key in ("image", "label") if key in item})
    path.write_text(json.dumps(content))
    return str(path)


def test_msf_net_without_parcellation_names_the_way_out_which_works(data_list, tmp_path, capsys):
    data_list = without_parcellation(data_list, tmp_path / "datalist.json")
    with pytest.raises(SystemExit) as exit_info:
        train("msf_net", data_list, tmp_path)
    assert exit_info.value.code == 2
    assert "has no parcellation in the data list" in capsys.readouterr().err
    train("msf_net", data_list, tmp_path, lambda_parcellation=0, max_epochs=1)
    (row,) = read_history(tmp_path / "out" / "history.csv")
    assert not any("parcellation" in name or "perceptual" in name for name in row)


def test_msf_net_with_perceptual_weights_trains_with_the_term_and_stores_no_vgg(data_list, tmp_path):
    weights = {name: torch.full(shape, 0.01) for name, shape in vgg19_shapes().items()}
    torch.save(weights, tmp_path / "vgg19.pth")
    train("msf_net", data_list, tmp_path, perceptual_weights=str(tmp_path / "vgg19.pth"), max_epochs=1)
    (row,) = read_history(tmp_path / "out" / "history.csv")
    assert row["loss_perceptual"] > 0
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    assert not any("perceptual" in name for name in state["objective"])


@pytest.mark.parametrize("trained", ["msf_net"], indirect=True)
def test_msf_net_with_averaged_slices_and_with_wrong_weights(data_list, trained, tmp_path, capsys):
    method, _, ckpt_dir = trained
    options = {**TINY_INFERENCE, "data_list": data_list, "ckpt_dir": str(ckpt_dir)}
    volumes = []
    for average in (False, True):
        folder = tmp_path / str(average)
        run(config_file=files("inference", method), output_dir=str(folder), average_slices=average, **options)
        volumes.append(nib.load(folder / "s0_hrT2.nii.gz").get_fdata())
    assert not np.array_equal(*volumes)
    with pytest.raises(SystemExit):
        train(method, data_list, tmp_path, perceptual_weights=str(tmp_path / "none.pth"))
    assert "none.pth is missing: give torchvision's vgg19-dcbb9e9d.pth" in capsys.readouterr().err


def numbers(method, *names):
    parser = config("train.yaml", f"methods/{method}.yaml")
    return tuple(parser.get_parsed_content(name) for name in names)


RATES = ("learning_rate", "discriminator_learning_rate", "betas", "weight_decay")
EPOCHS = ("batch_size", "max_epochs", "constant_epochs")
CONTRAST = ("lambda_nce", "identity_nce", "n_patches", "nce_features", "temperature")


def test_chen_2023_numbers():
    assert numbers("cut", "learning_rate", "discriminator_learning_rate") == pytest.approx((2e-4, 2e-5))
    assert numbers("cut", "betas", "weight_decay") == ([0.5, 0.999], 1e-4)
    assert numbers("cut", "batch_size", "max_epochs", "roi_size", "init") == (10, 200, [256, 256, -1], "kaiming")
    assert numbers("cut", *CONTRAST) == (1, True, 256, 256, 0.07)
    for network in ("generator", "discriminator"):
        schedule = config("train.yaml", "methods/cut.yaml")[f"{network}_schedule"]
        assert schedule["_target_"].endswith("ReduceLROnPlateau")
        assert (schedule["factor"], schedule["patience"], schedule["threshold"]) == (0.2, 5, 0.01)


def test_park_2020_numbers():
    for method in ("cut_original", "fastcut"):
        assert numbers(method, *RATES) == (2e-4, 2e-4, [0.5, 0.999], 0)
        assert numbers(method, "init", "roi_size", "crop_size") == ("xavier", [286, 286, -1], [256, 256])
    assert numbers("cut_original", *EPOCHS) == (1, 400, 200)
    assert numbers("cut_original", *CONTRAST) == (1, True, 256, 256, 0.07)
    assert numbers("fastcut", *EPOCHS) == (1, 200, 150)
    assert numbers("fastcut", *CONTRAST) == (10, False, 256, 256, 0.07)
    assert config("train.yaml", "methods/fastcut.yaml")["objective_def"]["flip_equivariance"] is True


def test_kang_2022_numbers_of_qs_attn():
    assert numbers("qs_attn", *RATES) == (2e-4, 2e-4, [0.5, 0.999], 0)
    assert numbers("qs_attn", *EPOCHS) == (1, 400, 200)
    assert numbers("qs_attn", *CONTRAST) == (1, True, 256, 256, 0.07)
    assert numbers("qs_attn", "attention", "attention_layers", "pixdim") == ("global", 2, [0.41, 0.41, 1.5])


@pytest.mark.parametrize("method", ["cut", "cut_original", "fastcut", "qs_attn"])
def test_contrastive_networks_have_the_papers_sizes(method):
    parser = config("train.yaml", f"methods/{method}.yaml")
    for name, millions in (("network_def", 11.4), ("discriminator_def", 2.76), ("projector_def", 0.56)):
        count = sum(p.numel() for p in parser.get_parsed_content(name).parameters())
        assert count == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("attention", ["local", "local_global"])
def test_qs_attn_trains_with_each_attention(data_list, tmp_path, attention):
    train("qs_attn", data_list, tmp_path, attention=attention, max_epochs=1)
    assert "loss_nce_source" in read_history(tmp_path / "out" / "history.csv")[0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"attention": "both"}, "attention must be one of global, local, local_global, but is 'both'"),
        ({"nce_layers": ["padded", "block5"]}, "nce_layers: name some of padded, down1, down2, block1, in this order"),
    ],
)
def test_a_wrong_option_of_contrastive_methods_says_so_in_one_line(data_list, tmp_path, capsys, option, message):
    with pytest.raises(SystemExit) as exit_info:
        train("qs_attn", data_list, tmp_path, **option)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_plateau_schedule_trains_and_resumes(data_list, tmp_path):
    """The phantom's overlay puts a linear schedule in its place, so this goes without."""
    files = [str(CONFIGS / name) for name in ("train.yaml", "methods/cut.yaml")]
    options = {**TINY, **paths(data_list, tmp_path)}
    for epochs in (1, 2):
        run(config_file=files, **{**options, "max_epochs": epochs})
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    rows = read_history(tmp_path / "out" / "history.csv")
    assert state["generator_schedule"]["best"] == pytest.approx(min(row["loss"] for row in rows), rel=1e-4)
    assert state["generator_schedule"]["last_epoch"] == 2


def test_site_cyclegan_translates_into_the_site_asked_for(data_list, tmp_path, capsys):
    assert config("train.yaml", "methods/site_cyclegan.yaml")["sites"] == ["ldn", "etz"]
    train("site_cyclegan", data_list, tmp_path, max_epochs=1)
    options = {**TINY_INFERENCE, "data_list": data_list, "ckpt_dir": str(tmp_path / "models")}
    volumes = []
    for site in ("ldn", "etz"):
        run(config_file=files("inference", "site_cyclegan"), output_dir=str(tmp_path / site), site=site, **options)
        volumes.append(nib.load(tmp_path / site / "s0_hrT2.nii.gz").get_fdata())
    assert not np.array_equal(*volumes)
    with pytest.raises(SystemExit) as exit_info:
        run(config_file=files("inference", "site_cyclegan"), output_dir=str(tmp_path), site="ukm", **options)
    assert exit_info.value.code == 2
    assert "site 'ukm' is none of those in sites (ldn, etz): name one of them with --site" in capsys.readouterr().err


def test_layout_and_compilation_give_the_same_checkpoints(data_list, tmp_path, monkeypatch):
    # As ever but for the generated code, which takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    options = {"max_epochs": 1, "amp": False}
    train("cyclegan", data_list, tmp_path / "plain", **options)
    train("cyclegan", data_list, tmp_path / "fast", channels_last=True, compile=True, **options)
    plain, fast = (torch.load(tmp_path / n / "models" / "model.pt", weights_only=True) for n in ("plain", "fast"))
    assert list(plain) == list(fast)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, atol=2e-3, rtol=0)  # four steps of 5e-4 at most
    train("cyclegan", data_list, tmp_path / "fast", **{**options, "max_epochs": 2})  # goes on without them


def test_run_from_the_shell_with_mlflow(data_list, tmp_path):
    options = {
        **TINY,
        "data_list": data_list,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files("train", "cyclegan"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [*command, *arguments, "--tracking", "mlflow"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "models" / "model.pt").is_file()
    assert (tmp_path / "out" / "mlruns.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cyclegan_segmenter", "msf_net", "fastcut"])
def test_two_processes_train_and_write_once(method, data_list, tmp_path):
    config_file = [*files("train", method), str(CONFIGS / "multi_gpu_train.yaml")]
    options = {
        **TINY,
        "data_list": data_list,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
    }
    options.pop("device")
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "monai.bundle", "run", "--config_file", str(config_file), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(f.name for f in (tmp_path / "models").iterdir()) == ["last.pt", "model.pt"]
    assert len(read_history(tmp_path / "out" / "history.csv")) == 2
