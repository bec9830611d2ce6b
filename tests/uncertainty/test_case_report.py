"""The JSON beside each label map."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.uncertainty import SaveCaseReportd, Thresholds, case_report, summarise_features

CLASSES = ([1], 2)


def good_labels():
    labels = np.zeros((20, 10, 10), np.uint8)
    labels[6:9, 4:7, 4:7] = 1
    labels[2:4, 5, 5] = labels[16:18, 5, 5] = 2
    return labels


def as_probabilities(labels, sure=0.99):
    onehot = np.stack([labels == label for label in range(3)])
    return np.where(onehot, sure, (1 - sure) / 2).astype(np.float32)


def test_nothing_to_remark():
    labels = good_labels()
    report = case_report("c", labels, np.eye(4), CLASSES, as_probabilities(labels), [labels, labels])
    assert report["flags"] == []
    assert report["volumes_ml"] == pytest.approx({"VS": 0.027, "cochlea": 0.004})
    assert 0 < report["entropy"] < 0.1
    assert report["agreement"] == {"VS": 1, "cochlea": 1}
    assert report["members"] == 2
    assert report["cochlea_missing"] == []
    assert report["unlike_training"] is None
    json.dumps(report)


def test_flags():
    labels = good_labels()
    unsure = case_report("c", labels, np.eye(4), CLASSES, as_probabilities(labels, 0.4))
    assert unsure["flags"] == ["unsure"]
    assert (unsure["agreement"], unsure["members"]) == (None, 1)
    other = np.roll(labels, 2, axis=1)
    split = case_report("c", labels, np.eye(4), CLASSES, as_probabilities(labels), [labels, other])
    assert split["agreement"] == pytest.approx({"VS": 1 / 3, "cochlea": 0})
    assert split["flags"] == ["unsure"]
    calm = Thresholds(entropy=1, agreement=0)
    assert case_report("c", labels, np.eye(4), CLASSES, None, [labels, other], thresholds=calm)["flags"] == []
    labels[labels == 1] = 0
    labels[16:] = 0
    report = case_report("c", labels, np.eye(4), CLASSES, as_probabilities(labels))
    assert report["flags"] == ["empty_VS", "cochlea_missing_side"]
    assert report["cochlea_missing"] == ["right"]
    empty = case_report("c", np.zeros_like(labels), np.eye(4), CLASSES, as_probabilities(np.zeros_like(labels)))
    assert empty["entropy"] is None
    assert empty["flags"] == ["empty_VS", "cochlea_missing_side"]


def test_unlike_the_training_data():
    labels = good_labels()
    cases = [{"noise": 1 + 0.01 * n, "VS_ml": 0.02 + 0.002 * n} for n in range(10)]
    reference = summarise_features(cases)
    like = case_report("c", labels, np.eye(4), CLASSES, None, (), {"noise": 1.05}, reference)
    assert like["unlike_training"] == {}
    assert like["features"]["VS_ml"] == pytest.approx(0.027)
    far = case_report("c", labels, np.eye(4), CLASSES, None, (), {"noise": 3.0}, reference)
    assert far["flags"] == ["unlike_training"]
    assert far["unlike_training"].keys() == {"noise"}
    assert far["unlike_training"]["noise"] == pytest.approx((3 - 1.045) / (0.05 * 1.045), abs=0.01)


class Mirror:
    """An inferer with two passes, inside one without."""

    def __init__(self, labels):
        self.inner = labels
        self.inferer = type("Inner", (), {"member_labels": labels})()


def test_transform(tmp_path):
    labels = good_labels()
    affine = np.diag([-2.0, -1, 1, 1])
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "c_hrT2.nii.gz")
    meta = {"filename_or_obj": str(tmp_path / "c_hrT2.nii.gz")}
    members = [torch.from_numpy(labels[None]), torch.from_numpy(np.roll(labels, 1, axis=1)[None])]
    transform = SaveCaseReportd("pred", tmp_path / "out", Mirror(members), thresholds={"agreement": 0.6})
    data = {
        "case": "c",
        "pred": MetaTensor(torch.from_numpy(labels[None].astype(np.float32)), meta=meta),
        "probabilities": torch.from_numpy(as_probabilities(labels)),
        "image": torch.rand(1, 12, 12, 12),
    }
    assert transform(data).keys() == data.keys()
    report = json.loads((tmp_path / "out" / "c_seg.json").read_text())
    assert report["agreement"] == pytest.approx({"VS": 2 / 3, "cochlea": 0})
    assert report["flags"] == ["unsure"]
    assert report["volumes_ml"]["VS"] == pytest.approx(0.054)
    assert report["features"]["spacing_x_mm"] == 2
    assert report["features"]["extent_x_mm"] == 40
    assert report["features"]["cochlea_ml"] == pytest.approx(0.008)
    assert 0 < report["features"]["noise"] < 1
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(SystemExit):
        SaveCaseReportd("pred", tmp_path, reference=tmp_path / "bad.json")
