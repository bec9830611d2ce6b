"""The translation bundle: its metadata, its properties, training, resuming and inference through MONAI's commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, run, verify_net_in_out

from crossmoda.data import write_datalist
from crossmoda.engines import read_history

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles" / "translation" / "configs"
METHODS = ("cyclegan", "cyclegan_segmenter", "site_cyclegan")
TINY = {
    "features": 4,
    "n_blocks": 1,
    "levels": 2,
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
        }
        target = {"case": f"t{i}", "site": "ldn", "image": f"{folder}/t{i}_hrT2.nii.gz"}
        save((head * 300 + tumour * 500 - cochlea * 200 + noise).astype(np.int16), affine, source["image"])
        save(np.where(tumour, 1, np.where(cochlea, 2, 0)).astype(np.uint8), affine, source["label"])
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
    faults = validator.iter_errors(json.loads((CONFIGS / "metadata.json").read_text()))
    assert [fault.message for fault in faults] == []


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


@pytest.mark.parametrize("overlay", [[], *[[f"methods/{method}.yaml"] for method in METHODS]])
def test_network_takes_and_gives_what_the_metadata_says(overlay, tmp_path):
    config_file = [str(CONFIGS / name) for name in ("inference.yaml", *overlay)]
    verify_net_in_out("network_def", meta_file=str(CONFIGS / "metadata.json"), config_file=config_file, device="cpu")
    # and the check would notice
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] += 1
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="channel"):
        verify_net_in_out(
            "network_def", meta_file=str(tmp_path / "metadata.json"), config_file=config_file, device="cpu"
        )


def test_checkpoint_exports_to_torchscript(trained, tmp_path):
    method, _, ckpt_dir = trained
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(ckpt_dir / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files("inference", method),
        key_in_ckpt="",
        **TINY_INFERENCE,
    )
    assert torch.jit.load(str(tmp_path / "model.ts"))(torch.zeros(1, 1, 20, 24)).shape == (1, 1, 20, 24)


def test_training_writes_checkpoints_history_and_pictures(trained):
    method, output_dir, ckpt_dir = trained
    state = torch.load(ckpt_dir / "model.pt", weights_only=True)
    parser = config("inference.yaml", f"methods/{method}.yaml")
    parser.update({key: value for key, value in TINY_INFERENCE.items() if key in parser})
    parser.get_parsed_content("network_def").load_state_dict(state)
    rows = read_history(output_dir / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "loss_cycle_source", "loss_discriminator_target", "val_selection_score"} <= set(rows[0])
    assert ("loss_segmentation_fake" in rows[1]) == (method == "cyclegan_segmenter")
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


@pytest.mark.parametrize("overlays", [[], ["methods/cyclegan_segmenter.yaml"], ["phantom.yaml"]])
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
def test_two_processes_train_and_write_once(data_list, tmp_path):
    config_file = [*files("train", "cyclegan_segmenter"), str(CONFIGS / "multi_gpu_train.yaml")]
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
