"""Both bundles on raw scans through each recipe, and on prepared volumes: the overlays `preparation` and `prepared`.

The networks are stand-ins that hand their input on, so that what comes back tells about the geometry alone.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from raw_scans import write_list

from crossmoda.preparation import Recipe, prepare

ROOT = Path(__file__).parents[2]
MIDDLE = [5, 6, 7, 8]  # slices through the large ball
SMALL = {
    "shin2021": {"spacing": [1.5, 1.5, 2.0], "size": [48, 48, -1]},
    "kang2022": {"spacing": [1.5, 1.5, 2.0], "crop": [48, 48, -1], "size": [64, 64, -1]},
    "choi2021": {"spacing": [1.5, 1.5, 2.0], "size": [48, 48]},
    "chen2023": {"min_size": 30, "size": 64, "percentiles": [0, 100]},
    "li2021": {
        "register": False,
        "denoise": False,
        "correct_bias": False,
        "template_shape": [80, 72, 40],
        "template_spacing": [1.5, 1.5, 2.0],
        "roi_size": [48, 48, 24],
    },
    "han2022": {"spacing": [1.5, 1.5, 2.0], "start": [0, 0], "size": [64, 64, 24]},
}


def configs(bundle: str, *names: str) -> list[str]:
    return [str(ROOT / "bundles" / bundle / "configs" / f"{name}.yaml") for name in names]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_list(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module", params=sorted(SMALL))
def preparation(request, raw, tmp_path_factory) -> Path:
    """A folder of prepared volumes of each recipe."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = dict(SMALL[request.param])
    if request.param == "han2022":
        # The balls are no head that could be registered; Han's affine is tested on full-size phantoms.
        changes["unregistered"] = [None, "source_training", "target_training", "target_validation"]
    summary = prepare(raw, Recipe.load(request.param, changes), folder, progress=False)
    assert summary.counts == {"done": 5}
    return folder


def parsed(bundle: str, network: torch.nn.Module, **values) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(configs(bundle, "inference", "preparation"))
    for key, value in values.items():
        parser[key] = value
    parser["network"] = network
    parser.parse()
    return parser


def test_translation_of_a_raw_scan_lies_on_its_grid(preparation: Path, raw: Path, tmp_path: Path) -> None:
    scan = raw.parent / "a_image.nii.gz"
    values = {"input": str(scan), "output_dir": str(tmp_path), "progress": False, "amp": False}
    parsed("translation", torch.nn.Identity(), preparation=str(preparation), **values).get_parsed_content(
        "evaluator"
    ).run()
    before, after = nib.load(scan), nib.load(tmp_path / "a_image_hrT2.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert before.shape == after.shape
    for z in MIDDLE:  # slice by slice, because Chen 2023 scales each by itself
        window = (slice(14, 30), slice(12, 28), z)
        values = before.get_fdata()[window].ravel(), after.get_fdata()[window].ravel()
        assert np.corrcoef(*values)[0, 1] > 0.9


class Threshold(torch.nn.Module):
    """Calls what is brighter than the middle of the range VS."""

    def forward(self, x):
        return torch.cat([torch.full_like(x, 0.5), x, torch.zeros_like(x)], dim=1) * 100


def test_segmentation_of_a_raw_scan_lies_on_its_grid(preparation: Path, raw: Path, tmp_path: Path) -> None:
    scan = raw.parent / "c_image.nii.gz"
    values = {"input": str(scan), "output_dir": str(tmp_path), "progress": False, "amp": False}
    values |= {"patch_size": [32, 32, 8], "window_size": [32, 32, 8]}
    parsed("segmentation-2.5d", Threshold(), preparation=str(preparation), **values).get_parsed_content(
        "evaluator"
    ).run()
    before, after = nib.load(scan), nib.load(tmp_path / "c_image_seg.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert before.shape == after.shape
    bright = before.get_fdata()[..., MIDDLE] > 600  # the large ball alone: 800 to 860
    found = after.get_fdata()[..., MIDDLE] == 1
    assert 2 * (bright & found).sum() / (bright.sum() + found.sum()) > 0.8


def test_a_recipe_by_name_needs_no_folder(raw: Path, tmp_path: Path) -> None:
    scan = raw.parent / "a_image.nii.gz"
    values = {"input": str(scan), "output_dir": str(tmp_path), "progress": False, "amp": False}
    parsed("translation", torch.nn.Identity(), preparation="kang2022", **values).get_parsed_content("evaluator").run()
    assert nib.load(tmp_path / "a_image_hrT2.nii.gz").shape == nib.load(scan).shape


@pytest.mark.parametrize(
    ("value", "message"), [("li2021", "learns its roi"), ("nowhere", "nowhere is missing: make it with")]
)
def test_unusable_preparations_are_one_line(value, message, raw, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        parsed(
            "translation", torch.nn.Identity(), preparation=value, input=str(raw.parent / "a_image.nii.gz")
        ).get_parsed_content("preprocessing")
    assert message in capsys.readouterr().err


def test_both_bundles_train_on_prepared_volumes(preparation: Path, tmp_path: Path) -> None:
    data_list = str(preparation / "datalist.json")
    common = {"data_list": data_list, "progress": False, "max_epochs": 1, "threads": 1, "amp": False}
    common |= {"num_workers": 0, "val_fraction": 0.5, "device": "$torch.device('cpu')", "logging_file": False}
    run(
        config_file=configs("translation", "train", "prepared"),
        **common,
        **{"output_dir": str(tmp_path / "t"), "ckpt_dir": str(tmp_path / "t" / "model")},
        **{"features": 2, "n_blocks": 1, "epoch_slices": 2, "crop_size": [24, 24], "batch_size": 1},
        val_slices_per_case=1,
    )
    assert (tmp_path / "t" / "model" / "model.pt").is_file()
    run(
        config_file=configs("segmentation-2.5d", "train", "prepared"),
        **common,
        **{"output_dir": str(tmp_path / "s"), "ckpt_dir": str(tmp_path / "s" / "model"), "val_interval": 1},
        **{"patch_size": [32, 32, 8], "window_size": [32, 32, 8], "network_def::channels": [2, 2, 2, 2, 2]},
    )
    assert (tmp_path / "s" / "model" / "model.pt").is_file()
