"""methods/structures.yaml of segmentation-2.5d: brainstem and cerebellum beside VS and cochlea."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from segmentation_bundle import bundle_config, load, overrides, run_in_process, train_overrides, write_dataset

from crossmoda.metrics import read_metrics

STRUCTURES = "methods/structures"
IDS = {1: 3, 2: 3, 3: 3, 4: 4, 5: 4, 6: 4}  # the head phantom's parcels to the classes


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """The tiny scans with parcels in slabs: 1 to 7 along the second axis, over the targets too."""
    path = write_dataset(tmp_path_factory.mktemp("data"))
    content = json.loads(path.read_text())
    for item in content["source_training"]:
        label = nib.load(path.parent / item["label"])
        parcels = np.broadcast_to(np.minimum(np.arange(label.shape[1]) // 5, 7)[:, None], label.shape)
        item["parcellation"] = f"{item['case']}_parcels.nii.gz"
        nib.save(nib.Nifti1Image(parcels.astype(np.int16), label.affine), path.parent / item["parcellation"])
    path.write_text(json.dumps(content))
    return path


def test_labels_of_training_hold_the_structures(data_list):
    parser = ConfigParser()
    parser.read_config([bundle_config(name) for name in ("train", STRUCTURES)])
    parser.update(train_overrides(data_list, data_list.parent))
    parser.parse()
    item = parser.get_parsed_content("items")[0]
    for transform in parser.get_parsed_content("deterministic_transforms")[:3]:
        item = transform(item)
    label = np.asarray(nib.load(data_list.parent / "case_0_Label.nii.gz").dataobj)
    parcels = np.asarray(nib.load(data_list.parent / "case_0_parcels.nii.gz").dataobj)
    expected = np.where(label == 0, np.vectorize(lambda number: IDS.get(number, 0))(parcels), label)
    np.testing.assert_array_equal(item["label"][0].numpy(), expected)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("more", [[], ["methods/target_painting", "phantom"]], ids=str)
def test_a_network_of_five_classes_trains_and_predicts(more, data_list, tmp_path):
    run_in_process(["train", *more[:1], STRUCTURES, *more[1:]], train_overrides(data_list, tmp_path))
    network = load(tmp_path / "model" / "model.pt")
    assert 5 in {len(weight) for weight in network.values() if weight.ndim}
    values = overrides(data_list, tmp_path)
    run_in_process(["evaluate", STRUCTURES, *more[1:]], values)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["case"] for row in rows] == ["case_10", "case_11"]
    assert all(0 <= row[f"dice_{name}"] <= 1 for row in rows for name in ("VS", "cochlea"))
    prediction = nib.load(tmp_path / "case_10_seg.nii.gz")
    assert set(np.unique(np.asarray(prediction.dataobj))) <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("method", [[], ["methods/chen2023"]], ids=str)
def test_losses_weigh_all_five_classes(method):
    parser = ConfigParser()
    parser.read_config([bundle_config(name) for name in ("train", *method, STRUCTURES)])
    parser.parse()
    label = torch.arange(5).repeat(16 * 16)[: 16 * 16 * 4].reshape(1, 1, 16, 16, 4)
    assert torch.isfinite(parser.get_parsed_content("loss")(torch.zeros(1, 5, 16, 16, 4), label))


def test_items_without_parcellation_are_refused(data_list, tmp_path, capsys):
    content = json.loads(data_list.read_text())
    del content["source_training"][2]["parcellation"]
    broken = data_list.with_name("broken.json")
    broken.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        run_in_process(["train", STRUCTURES], train_overrides(broken, tmp_path))
    assert "case_2 has no 'parcellation': add it" in str(stop.value) + capsys.readouterr().err
