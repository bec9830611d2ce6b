"""What a student's training adds to a segmentation bundle's."""

from __future__ import annotations

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, run
from monai.transforms import Compose, RandGaussianNoised
from segmentation_bundle import ROOT, load, train_overrides, write_dataset

from crossmoda.data import read_sections, save_nifti
from crossmoda.engines import ResumableRun
from crossmoda.errors import InputError
from crossmoda.labels import IGNORE
from crossmoda.losses import IgnoreLabelLoss
from crossmoda.selftraining.student import (
    MixedSampler,
    OnlyTranslated,
    WeightAverage,
    for_students,
    load_student_items,
    split_students,
)

BUNDLES = ["segmentation-2.5d", "segmentation-3d"]
STUDENT = str(ROOT / "bundles/self-training/configs/student.yaml")


def config_files(bundle, *overlays):
    configs = ROOT / "bundles" / bundle / "configs"
    return [str(configs / f"{name}.yaml") for name in ("train", *overlays)] + [STUDENT]


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    """Four translated cases; two real ones whose pseudo-labels have ignored voxels."""
    folder = tmp_path_factory.mktemp("data")
    source = write_dataset(folder)
    content = json.loads(source.read_text())
    for item in content.pop("target_validation"):
        image = nib.load(folder / item["label"])
        label = np.asarray(image.dataobj).copy()
        label[:, :8] = IGNORE
        save_nifti(label, image.affine, folder / f"{item['case']}_pseudo.nii.gz")
        content["source_training"].append({**item, "label": f"{item['case']}_pseudo.nii.gz", "pseudo": True})
    path = folder / "combined.json"
    path.write_text(json.dumps(content))
    return path


# --- data ---------------------------------------------------------------------------------------------------------


def test_items_know_which_are_pseudo_labelled(combined):
    items = load_student_items(combined, progress=False)
    assert [item["pseudo"] for item in items] == [False] * 4 + [True] * 2
    assert all(set(item) == {"case", "site", "image", "label", "pseudo"} for item in items)


def test_ignored_voxels_are_allowed_in_pseudo_labels_alone(combined, tmp_path):
    content = {"source_training": read_sections(combined)["source_training"]}
    content["source_training"][-1]["pseudo"] = False
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"case_11_pseudo\.nii\.gz"):
        load_student_items(path, progress=False)


def test_pseudo_labels_may_be_empty_but_not_missing(combined, tmp_path):
    content = {"source_training": read_sections(combined)["source_training"]}
    last = content["source_training"][-1]
    image = nib.load(last["label"])
    save_nifti(np.zeros(image.shape, np.uint8), image.affine, tmp_path / "empty.nii.gz")
    path = tmp_path / "list.json"
    last["label"] = str(tmp_path / "empty.nii.gz")
    path.write_text(json.dumps(content))
    assert len(load_student_items(path, progress=False)) == 6
    del last["label"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no label"):
        load_student_items(path, progress=False)


@pytest.mark.parametrize("fold", [None, 0, 1])
def test_students_are_judged_on_translated_cases_only(combined, fold):
    items = load_student_items(combined, progress=False)
    training, validation = split_students(items, 0.25, 0, fold, 2)
    assert not any(item["pseudo"] for item in validation)
    assert {item["case"] for item in training if item["pseudo"]} == {"case_10", "case_11"}
    without = split_students(items[:4], 0.25, 0, fold, 2)
    assert validation == without[1]


def test_share_of_real_samples():
    sampler = MixedSampler([False] * 6 + [True] * 2, num_samples=12, real_share=0.5)
    torch.manual_seed(0)
    drawn = Counter(sampler)
    assert sum(drawn.values()) == len(sampler) == 12
    assert {index: drawn[index] for index in range(8)} == dict.fromkeys(range(6), 1) | {6: 3, 7: 3}
    assert list(sampler) != list(sampler)


def test_without_a_share_each_case_comes_once():
    assert sorted(MixedSampler([False, True, True], 3)) == [0, 1, 2]
    assert sorted(MixedSampler([False, False], 2, real_share=0.5)) == [0, 1]
    assert sorted(MixedSampler([True, True], 2, real_share=0.0)) == [0, 1]
    with pytest.raises(ValueError, match="share from 0 to 1"):
        MixedSampler([True], 1, 1.5)


# --- transforms ---------------------------------------------------------------------------------------------------


def test_real_scans_keep_their_targets():
    noise = RandGaussianNoised("image", prob=1.0)
    steps = for_students([lambda data: data, noise], [noise])
    assert not isinstance(steps[0], OnlyTranslated)
    chain = Compose(steps).set_random_state(seed=0)
    image = torch.zeros(1, 4, 4, 4)
    assert torch.equal(chain({"image": image, "pseudo": True})["image"], image)
    first = chain({"image": image, "pseudo": False})["image"]
    assert not torch.equal(first, image)
    chain.set_random_state(seed=0)
    assert torch.equal(chain({"image": image, "pseudo": False})["image"], first)


# --- average ------------------------------------------------------------------------------------------------------


def test_average_follows_the_weights_and_resumes():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = WeightAverage(network, momentum=0.25)
    engine = Engine(lambda *_: network.weight.data.fill_(1.0))
    average.attach(engine)
    engine.run([0], max_epochs=3)
    expected = 1 - 0.75**3
    assert average.average.weight.item() == pytest.approx(expected)
    other = WeightAverage(torch.nn.Linear(1, 1, bias=False), momentum=0.25)
    other.load_state_dict(average.state_dict())
    assert other.average.weight.item() == pytest.approx(expected)


def test_no_average_is_the_network():
    network = torch.nn.Linear(1, 1)
    average = WeightAverage(network)
    assert average.average is network
    assert average.state_dict() == {}


# --- the overlay on the segmentation bundles ----------------------------------------------------------------------


def small(bundle, combined, output, **more):
    values = train_overrides(combined, output, batch_size=1, val_fraction=0.25, **more)
    if bundle == "segmentation-3d":
        del values["network_def::channels"]
        values |= {"strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 1], [3, 3, 3], [3, 3, 3]]}
        values |= {"features": [4, 4, 4], "iterations_per_epoch": 3}
    return values


@pytest.mark.parametrize("bundle", BUNDLES)
def test_overlay_reaches_what_it_changes(bundle, combined, tmp_path):
    parser = ConfigParser()
    parser.read_config(config_files(bundle))
    for key, value in small(bundle, combined, tmp_path, ema_momentum=0.1, real_share=0.5).items():
        parser[key] = value
    parser.parse()
    trainer = parser.get_parsed_content("train::trainer")
    assert isinstance(trainer.loss_function, IgnoreLabelLoss)
    (resumable,) = [item for item in parser.get_parsed_content("train::handlers") if isinstance(item, ResumableRun)]
    average = parser.get_parsed_content("weight_average")
    assert resumable.save_dict["average"] is average
    assert parser.get_parsed_content("save_best").network is average.average
    assert parser.get_parsed_content("validate::evaluator").network is average.average
    assert average.average is not parser.get_parsed_content("network")
    assert isinstance(trainer.data_loader.sampler, MixedSampler)
    steps = parser.get_parsed_content("train::preprocessing").transforms
    assert any(isinstance(step, OnlyTranslated) for step in steps)
    assert len(parser.get_parsed_content("validate::dataset")) == 1


@pytest.mark.parametrize("bundle", BUNDLES)
def test_student_trains_and_saves_its_average(bundle, combined, tmp_path):
    run(config_file=config_files(bundle), logging_file=False, **small(bundle, combined, tmp_path, ema_momentum=0.1))
    model, last = load(tmp_path / "model" / "model.pt"), load(tmp_path / "model" / "last.pt")
    assert all(torch.equal(model[key], last["average"][key]) for key in model)
    assert any(not torch.equal(model[key], last["network"][key]) for key in model)


@pytest.mark.parametrize("overlay", ["methods/chen2023", "methods/vs_seg", "methods/target_painting"])
def test_student_of_each_kind_of_network(overlay, combined, tmp_path):
    values = small(BUNDLES[0], combined, tmp_path)
    if overlay == "methods/vs_seg":
        size = [32, 32, 16]
        values |= {"network_def::channels": [4] * 6, "patch_size": size, "window_size": size}
    if overlay == "methods/chen2023":
        values["network_def::channels"] = [4] * 4
    run(config_file=config_files(BUNDLES[0], overlay), logging_file=False, **values)
    assert (tmp_path / "model" / "model.pt").is_file()
