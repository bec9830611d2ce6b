"""Ensembles, probabilities on disk, post-processing rules and case reports of the segmentation-2.5d bundle."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from segmentation_bundle import bundle_config, overrides, run_in_process, write_case, write_dataset

from crossmoda.data import read_probabilities
from crossmoda.networks import ResUNet2d5, UNet2d5


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two members with weights drawn at random."""
    folder = tmp_path_factory.mktemp("weights")
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        paths.append(folder / f"fold_{seed}" / "model.pt")
        paths[-1].parent.mkdir()
        torch.save(UNet2d5(channels=(4, 4, 4, 4, 4)).state_dict(), paths[-1])
    return paths


def infer(data_list, output, config="inference", **more):
    values = overrides(data_list, output, section="target_validation", save_probabilities=True, **more)
    run_in_process([config], values)
    return read_probabilities(output / "case_10_prob.nii.gz")[0]


def test_mean_of_two_weights(data_list, weights, tmp_path):
    single = [infer(data_list, tmp_path / str(n), ckpt_dir=str(path.parent)) for n, path in enumerate(weights)]
    both = infer(data_list, tmp_path / "both", ckpt_paths=[str(path) for path in weights])
    assert np.abs(single[0] - single[1]).max() > 0.02
    inside = single[0][0] < 1  # beyond the scan's cropped box there is background alone
    assert np.abs(both - (single[0] + single[1]) / 2)[:, inside].max() < 1.5 / 255
    label = np.asarray(nib.load(tmp_path / "both" / "case_10_seg.nii.gz").dataobj)
    assert label.shape == both.shape[1:]
    sure = np.sort(both, axis=0)[-1] - np.sort(both, axis=0)[-2] > 2 / 255
    changed = (label != both.argmax(axis=0)) & sure
    assert not changed[both.argmax(axis=0) != 1].any()  # largest VS component apart, they are the same


def test_evaluation_takes_both_options(data_list, weights, tmp_path):
    infer(data_list, tmp_path, "evaluate", ckpt_paths=[str(path) for path in weights])
    assert (tmp_path / "metrics.csv").is_file()


def test_no_probabilities_by_default(data_list, weights, tmp_path):
    run_in_process(["inference"], overrides(data_list, tmp_path, ckpt_dir=str(weights[0].parent)))
    assert not list(tmp_path.glob("*_prob.nii.gz"))
    assert len(list(tmp_path.glob("*_seg.nii.gz"))) == 2


def test_a_missing_member_is_named_before_any_scan(data_list, weights, tmp_path, capfd):
    with pytest.raises(SystemExit):
        infer(data_list, tmp_path, ckpt_paths=[str(weights[0]), str(tmp_path / "fold_9/model.pt")])
    assert "fold_9/model.pt is missing" in capfd.readouterr().err
    assert not list(tmp_path.glob("*_seg.nii.gz"))


def report_of(output, case="case_10"):
    return json.loads((output / f"{case}_seg.json").read_text())


def test_report_of_one_pass_of_mirror_images_and_of_members(data_list, weights, tmp_path):
    one = {"ckpt_dir": str(weights[0].parent)}
    infer(data_list, tmp_path / "one", **one)
    infer(data_list, tmp_path / "mirror", mirror_axes=[0, 1], **one)
    infer(data_list, tmp_path / "both", mirror_axes=[0], ckpt_paths=[str(path) for path in weights])
    reports = [report_of(tmp_path / name) for name in ("one", "mirror", "both")]
    assert [report["members"] for report in reports] == [1, 4, 2]
    assert reports[0]["agreement"] is None
    assert all(0 <= dice <= 1 for report in reports[1:] for dice in report["agreement"].values())
    assert all(0 < report["entropy"] <= 1 for report in reports)
    assert all("unsure" in report["flags"] for report in reports)  # weights drawn at random know nothing
    label = nib.load(tmp_path / "one" / "case_10_seg.nii.gz")
    millilitres = (np.asarray(label.dataobj) == 1).sum() * np.prod(label.header.get_zooms()) / 1000
    assert reports[0]["volumes_ml"]["VS"] == pytest.approx(millilitres, rel=1e-3)
    assert reports[0]["features"]["spacing_z_mm"] == pytest.approx(1.7, rel=1e-3)


def test_thresholds_are_config_entries(data_list, weights, tmp_path):
    calm = {"entropy": 1.0, "agreement": 0.0, "distance": 5.0}
    infer(data_list, tmp_path, ckpt_dir=str(weights[0].parent), thresholds=calm)
    assert "unsure" not in report_of(tmp_path)["flags"]


def test_reference_of_the_training_data_and_a_scan_unlike_it(weights, tmp_path):
    items = [write_case(tmp_path, f"case_{n}", n) for n in range(6)]
    (tmp_path / "datalist.json").write_text(json.dumps({"target_training": items}))
    models = tmp_path / "models"
    models.mkdir()
    (models / "model.pt").write_bytes(weights[0].read_bytes())
    values = overrides(tmp_path / "datalist.json", tmp_path / "out", ckpt_dir=str(models))
    run_in_process(["inference", "reference"], values)
    reference = json.loads((models / "reference.json").read_text())
    assert reference["cases"] == 6
    assert {"spacing_x_mm", "noise", "VS_ml", "entropy"} <= reference["features"].keys()

    run_in_process(["inference"], values | {"section": "target_training"})
    assert report_of(tmp_path / "out", "case_0")["unlike_training"] == {}
    scan = nib.load(tmp_path / "case_0_hrT2.nii.gz")
    affine = scan.affine @ np.diag([1, 1, 2, 1])
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), affine), tmp_path / "thick_hrT2.nii.gz")
    run_in_process(["inference"], values | {"data_list": None, "input": str(tmp_path / "thick_hrT2.nii.gz")})
    report = report_of(tmp_path / "out", "thick")
    assert report["unlike_training"]["spacing_z_mm"] == pytest.approx(20, abs=0.1)  # spreads of 5 %
    folds = {"ckpt_paths": [str(path) for path in weights]}  # the reference is that of `ckpt_dir` still
    run_in_process(
        ["inference"], values | {"section": "target_training", "output_dir": str(tmp_path / "folds"), **folds}
    )
    assert report_of(tmp_path / "folds", "case_0")["unlike_training"] is not None
    assert "unlike_training" in report["flags"]


def test_postprocessing_rules_by_name_and_by_file(tmp_path, capsys):
    (tmp_path / "choice.json").write_text('{"postprocessing_rules": ["largest_cochlea_per_side"]}')
    pred = torch.zeros(1, 12, 8, 4)
    pred[0, 0:3, 0:3] = pred[0, 6, 6, 0] = 1
    pred[0, 9, 0] = pred[0, 9, 6, 0] = 2

    def cleaned(rules):
        parser = ConfigParser()
        parser.read_config(bundle_config("inference"))
        parser["postprocessing_rules"] = rules
        parser["postprocessing::transforms"] = parser["postprocessing::transforms"][-1:]
        parser.parse()
        return parser.get_parsed_content("postprocessing")({"pred": pred})["pred"]

    assert torch.equal(cleaned([]), pred)
    expected = pred.clone()
    expected[0, 9, 6, 0] = 0
    assert torch.equal(cleaned(str(tmp_path / "choice.json")), expected)
    with pytest.raises(SystemExit):
        cleaned(["smooth"])
    assert "no post-processing rule 'smooth'" in capsys.readouterr().err


SMALL_CHEN = {
    "network_def::channels": [4, 8, 8, 8],
    "blocks": 1,
    "patch_size": [48, 48, 8],
    "window_size": [48, 48, 8],
}


@pytest.mark.parametrize("classes", [3, 4])
def test_chen_2023_votes_over_flips(classes, data_list, tmp_path):
    torch.manual_seed(0)
    network = ResUNet2d5(out_channels=classes, channels=(4, 8, 8, 8), blocks=1)
    (tmp_path / "model").mkdir()
    torch.save(network.state_dict(), tmp_path / "model" / "model.pt")
    overlays = ["methods/chen2023", "methods/three_class"][: classes - 2]
    values = overrides(data_list, tmp_path, **SMALL_CHEN, save_probabilities=True)
    for name, vote in (("vote", True), ("plain", False)):
        output = {"output_dir": str(tmp_path / name), "flip_vote": vote}
        run_in_process(["inference", *overlays], values | output)
    reports = {name: report_of(tmp_path / name) for name in ("vote", "plain")}
    assert (reports["vote"]["members"], reports["plain"]["members"]) == (8, 1)
    assert reports["vote"]["agreement"].keys() == reports["vote"]["volumes_ml"].keys()
    assert ("intra" in reports["vote"]["volumes_ml"]) == (classes == 4)
    probabilities = read_probabilities(tmp_path / "vote" / "case_10_prob.nii.gz")[0]
    assert len(probabilities) == classes
    labels = np.asarray(nib.load(tmp_path / "vote" / "case_10_seg.nii.gz").dataobj)
    sure = probabilities.max(axis=0) > 0.6  # elsewhere the border runs between the network's voxels
    np.testing.assert_array_equal(labels[sure], probabilities.argmax(axis=0)[sure])
