"""The translation bundle's evaluate.yaml, and `deflicker` of its inference.yaml, through MONAI's commands."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, run

from crossmoda.data import write_datalist
from crossmoda.metrics import read_metrics

CONFIGS = Path(__file__).parents[2] / "bundles" / "translation" / "configs"
AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 3.0, -5], [0, 0, 0, 1]])
TINY = {"pixdim": [2.0, 2.0, 3.0], "roi_size": [32, 32, -1], "progress": False}


def config(*names):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser


def without_parcellation(step):
    """A transform's config for image and label alone."""
    if step["keys"][-1] != "parcellation":
        return step
    step = step | {"keys": step["keys"][:-1]}
    return step | {"mode": step["mode"][:-1]} if "mode" in step else step


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Two sources in the three classes of 2023, two targets, the truth, and flickering translations outside a box."""
    random = np.random.RandomState(0)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 36, 12)], indexing="ij")
    head, tumour = x**2 + y**2 < 0.9, (x - 0.3) ** 2 + y**2 + z**2 < 0.06
    cochlea = (x + 0.3) ** 2 + y**2 + z**2 < 0.04
    sections, translated = {"source_training": [], "target_training": []}, []
    for n in range(2):
        noise = random.rand(40, 36, 12) * 30
        source = head * (300 + 100 * np.sin(5 * x)) + tumour * 500 - cochlea * 200 + noise
        truth = head * (300 - 100 * np.sin(5 * x)) + cochlea * 600 + random.rand(40, 36, 12) * 30
        label = np.where(tumour, 1 + (x > 0.3), np.where(cochlea, 3, 0)).astype(np.uint8)
        names = {"case": f"s{n}", "site": "ldn"}
        item = {"image": save(source.astype(np.int16), tmp_path / f"s{n}_ceT1.nii.gz")}
        item["label"] = save(label, tmp_path / f"s{n}_Label.nii.gz")
        sections["source_training"].append(names | item)
        target = save((truth + noise).astype(np.int16), tmp_path / f"t{n}_hrT2.nii.gz")
        sections["target_training"].append({"case": f"t{n}", "site": "ldn", "image": target})
        save(truth.astype(np.int16), tmp_path / "truth" / f"s{n}_hrT2.nii.gz")
        fake = np.clip(truth * (1 + 0.2 * random.randn(12)), 0, 1000)
        fake[:4], fake[-4:], fake[:, :2], fake[:, -2:] = 0, 0, 0, 0  # outside the region of interest
        translated.append(names | {"image": save(fake.astype(np.int16), tmp_path / "out" / f"s{n}_hrT2.nii.gz")})
    write_datalist(sections, tmp_path / "datalist.json", {0: 0, 1: 1, 2: 1, 3: 2})
    write_datalist({"source_training": translated}, tmp_path / "out" / "datalist.json")
    return tmp_path


@pytest.mark.parametrize("overlays", [[], ["phantom.yaml"], ["prepared.yaml"], ["methods/cyclegan_segmenter.yaml"]])
def test_prepares_volumes_as_training_does(overlays):
    train, evaluate = config("train.yaml", *overlays), config("evaluate.yaml", *overlays)
    in_training = [without_parcellation(step) for step in train["train"]["deterministic_transforms"]]
    assert evaluate["preprocessing"]["transforms"] == in_training
    for name in ("pixdim", "roi_size", "lower_percentile", "upper_percentile"):
        assert evaluate[name] == train[name]


def test_evaluates_a_folder_of_translations(folder):
    run(
        config_file=[str(CONFIGS / "evaluate.yaml"), str(CONFIGS / "phantom.yaml")],
        translations=str(folder / "out"),
        data_list=str(folder / "datalist.json"),
        paired_dir=str(folder / "truth"),
        output_dir=str(folder / "judged"),
        **TINY,
    )
    rows = read_metrics(folder / "judged" / "metrics.csv")
    assert [row["case"] for row in rows] == ["s0", "s1"]
    assert all(row["contrast_cochlea"] > 20 for row in rows)
    assert all(row["flicker_percent"] > 3 for row in rows)
    summary = json.loads((folder / "judged" / "summary.json").read_text())
    assert summary["truth"]["flicker_percent"]["mean"] < 1
    assert 0 < summary["cases"]["ssim_2d"]["mean"] < 1


def test_a_missing_list_is_one_line(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run(
            config_file=str(CONFIGS / "evaluate.yaml"),
            translations=str(folder / "none"),
            data_list=str(folder / "datalist.json"),
            **TINY,
        )
    assert caught.value.code == 2
    assert "none is missing" in capsys.readouterr().err


@pytest.mark.parametrize("deflicker", [False, True])
def test_inference_evens_out_slices_if_asked(folder, tmp_path, deflicker):
    """An identity as network; the source flickers less than its translation only after evening out, never before."""
    run(
        config_file=[str(CONFIGS / "inference.yaml"), str(CONFIGS / "phantom.yaml")],
        input=str(folder / "out" / "s0_hrT2.nii.gz"),
        output_dir=str(tmp_path / "even"),
        initialize=[],
        amp=False,
        deflicker=deflicker,
        network_def={"_target_": "torch.nn.Identity"},
        threads=1,
        **TINY,
    )
    raw = nib.load(folder / "out" / "s0_hrT2.nii.gz").get_fdata()
    even = nib.load(tmp_path / "even" / "s0_hrT2.nii.gz").get_fdata()
    inside = (slice(10, 30), slice(8, 28))
    steps = [np.abs(np.diff(volume[inside].mean((0, 1)))).mean() / volume.max() for volume in (raw, even)]
    assert (steps[1] < 0.7 * steps[0]) == deflicker


def test_overlay_of_several_processes_means_the_handlers_that_it_names():
    """It edits the trainer's handlers by place, so a new one must not push others away."""
    handlers = config("train.yaml", "multi_gpu_train.yaml")["train"]["handlers"]
    names = [handler["_target_"].split(".")[-1] for handler in handlers]
    rank_only = [
        name for name, handler in zip(names, handlers, strict=True) if "@rank > 0" in handler.get("_disabled_", "")
    ]
    assert rank_only == ["TranslationPictures", "EpochLine", "ProgressBar", "DiscriminatorWatch"]
    assert names[-1] == "ResumableRun"
    assert "@rank" in handlers[-1]["seed"]
