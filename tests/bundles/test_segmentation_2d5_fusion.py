"""Probabilities on disk, and several weights in one run, of the segmentation-2.5d bundle."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from segmentation_bundle import overrides, run_in_process, write_dataset

from crossmoda.data import read_probabilities
from crossmoda.networks import UNet2d5


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
