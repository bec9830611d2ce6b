from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from selftraining_cases import THREE, TWO, head

from crossmoda.errors import InputError
from crossmoda.selftraining import LabelPriors, learn_priors, measure_anatomy

AFFINE = np.diag([0.5, 0.5, 1.0, 1.0])


@pytest.fixture
def source(tmp_path):
    """A data list of two heads, the second with one cochlea, and their labels."""
    labels = [head()[0], head()[0]]
    labels[1][30:] = 0
    items = []
    for number, array in enumerate(labels):
        for kind in ("ceT1", "Label"):
            nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / f"case_{number}_{kind}.nii.gz")
        files = {"image": f"case_{number}_ceT1.nii.gz", "label": f"case_{number}_Label.nii.gz"}
        items.append({"case": f"case_{number}", "site": "ldn", **files})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"source_training": items}), encoding="utf-8")
    return path, labels


def test_learned_from_the_labels(source):
    path, labels = source
    priors = learn_priors(path)
    measured = [measure_anatomy(array, AFFINE, TWO) for array in labels]
    assert priors.cases == 2
    assert priors.values["volume_cochlea"] == sorted(row["volume_cochlea"] for row in measured)
    assert priors.values["volume_VS"] == [5 * 4 * 4 / 4] * 2
    assert priors.values["distance_cochleae"] == [measured[0]["distance_cochleae"]]
    assert priors.share_measured("distance_cochleae") == 0.5
    assert priors.share_measured("distance_VS_cochlea") == 1


def test_label_map_merges_or_keeps_parts(source, tmp_path):
    path, _ = source
    content = json.loads(path.read_text(encoding="utf-8"))
    three = head()[0]
    three[three == 2] = 3
    three[16:19][three[16:19] == 1] = 2
    for item in content["source_training"]:
        nib.save(nib.Nifti1Image(three, AFFINE), tmp_path / item["label"])
    content["label_map"] = {"1": 1, "2": 1, "3": 2}
    path.write_text(json.dumps(content), encoding="utf-8")
    merged = learn_priors(path)
    assert learn_priors(path, classes=THREE, label_map={0: 0, 1: 1, 2: 2, 3: 3}) == merged
    assert merged.values["components_VS"] == [1, 1]


def test_bounds_are_quantiles():
    priors = LabelPriors(5, {"volume_VS": [1.0, 2.0, 3.0, 4.0, 5.0], "distance_cochleae": []})
    assert priors.bounds("volume_VS", 0.0) == (1, 5)
    assert priors.bounds("volume_VS", 0.25) == (2, 4)
    assert priors.bounds("volume_VS", 0.1) == pytest.approx((1.4, 4.6))
    assert priors.bounds("distance_cochleae", 0.0) is None
    assert priors.bounds("unknown", 0.0) is None
    assert LabelPriors.of([]).share_measured("volume_VS") == 0


def test_round_trip(tmp_path):
    rows = [measure_anatomy(head()[0], AFFINE, TWO), measure_anatomy(np.zeros((4, 4, 4), np.uint8), AFFINE, TWO)]
    priors = LabelPriors.of(rows)
    priors.save(tmp_path / "new" / "priors.json")
    assert LabelPriors.load(tmp_path / "new" / "priors.json") == priors


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": 1}', '{"cases": 1, "values": {"volume_VS": ["x"]}}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "priors.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"priors\.json holds no label priors"):
        LabelPriors.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        LabelPriors.load(tmp_path / "none.json")


def test_missing_label(source):
    path, _ = source
    (path.parent / "case_1_Label.nii.gz").unlink()
    with pytest.raises(InputError, match="case_1_Label"):
        learn_priors(path)
