"""Metrics of the tumour's parts, by hand and against loops over voxels."""

import json
import logging
from itertools import product

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from crossmoda.data import write_datalist
from crossmoda.errors import InputError
from crossmoda.labels import MERGE_2023
from crossmoda.metrics import evaluate, evaluate_pair, evaluate_parts, part_boundary, read_metrics, summarise

IDENTITY = {label: label for label in range(4)}
SPACING = (0.5, 0.6, 1.5)


def row_of(text, depth=1):
    """A label map (len(text), 1, depth) from a row of digits."""
    return np.repeat(np.array(list(text), np.uint8)[:, None, None], depth, axis=2)


def test_boundary_by_hand():
    assert np.flatnonzero(part_boundary(row_of("0112220"))).tolist() == [3]
    assert np.flatnonzero(part_boundary(row_of("2112022"))).tolist() == [0, 3]
    assert not part_boundary(row_of("1102203")).any()  # they do not touch
    assert not part_boundary(row_of("0112333")[:3]).any()  # no intra-meatal part
    corner = np.zeros((2, 2, 1), np.uint8)
    corner[0, 0], corner[1, 1] = 1, 2  # edges and corners don't count
    assert not part_boundary(corner).any()


def test_case_by_hand():
    prediction, truth = row_of("0111223"), row_of("0112223")
    row = evaluate_parts(prediction, truth, (0.5, 1.0, 2.0))
    # extra: 3 predicted, 2 true, 2 shared; intra: 2 predicted, 3 true, 2 shared. All voxels are surface.
    assert row["dice_extra"] == row["dice_intra"] == pytest.approx(4 / 5)
    assert row["assd_extra"] == pytest.approx((0.5 / 3 + 0) / 2)
    assert row["assd_intra"] == pytest.approx((0 + 0.5 / 3) / 2)
    assert row["assd_boundary"] == pytest.approx(0.5)  # one voxel against its neighbour
    assert (row["prediction_ml_extra"], row["truth_ml_extra"]) == (pytest.approx(0.003), pytest.approx(0.002))
    assert (row["prediction_ml_intra"], row["truth_ml_intra"]) == (pytest.approx(0.002), pytest.approx(0.003))
    assert list(row)[-1] == "assd_boundary"
    assert not any("cochlea" in name for name in row)


@pytest.mark.parametrize(
    ("prediction", "truth", "distance"),
    [
        ("0112200", "0112200", 0),
        ("0110000", "0112200", 350),  # no intra-meatal part predicted: no boundary
        ("0112200", "0110220", 350),
        ("0002200", "0022200", 0),  # inside the canal alone, both times
        ("0000003", "0110000", 0),
    ],
)
def test_boundary_of_empty_sets(prediction, truth, distance):
    assert evaluate_parts(row_of(prediction), row_of(truth), (1, 1, 1))["assd_boundary"] == distance


def brute_force(prediction, truth, spacing):
    """Dice by counting, distances between lists of voxels."""
    steps = [step for step in product((-1, 0, 1), repeat=3) if np.abs(step).sum() == 1]

    def voxels(mask):
        return [tuple(index) for index in np.argwhere(mask)]

    def surface(mask):
        inside = set(voxels(mask))
        return [v for v in inside if not all(tuple(np.add(v, step)) in inside for step in steps)]

    def boundary(parts):
        extra = set(voxels(parts == 1))
        return [v for v in voxels(parts == 2) if any(tuple(np.add(v, step)) in extra for step in steps)]

    def distance(a, b):
        between = cdist(np.array(a) * spacing, np.array(b) * spacing)
        return (between.min(axis=1).mean() + between.min(axis=0).mean()) / 2

    row = {"assd_boundary": distance(boundary(prediction), boundary(truth))}
    for label, name in ((1, "extra"), (2, "intra")):
        first, second = prediction == label, truth == label
        row[f"dice_{name}"] = 2 * len(set(voxels(first)) & set(voxels(second))) / (first.sum() + second.sum())
        row[f"assd_{name}"] = distance(surface(first), surface(second))
    return row


@pytest.mark.parametrize("seed", range(3))
def test_against_loops_over_voxels(seed):
    random = np.random.RandomState(seed)
    x, y, z = np.indices((16, 14, 8))

    def tumour():
        centre, radius = random.uniform(5, 9, 3) * (1, 1, 0.5), random.uniform(3, 4)
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + 2 * (z - centre[2]) ** 2 < radius**2
        parts = np.where(ball, np.where(x + 0.3 * y > centre[0] + 2.5, 2, 1), 0).astype(np.uint8)
        parts[13:15, 10:13, 2:4] = 3
        parts[random.rand(*parts.shape) < 0.02] = 2  # strays, some at the border of the volume
        return parts

    prediction, truth = tumour(), tumour()
    row = evaluate_parts(prediction, truth, SPACING)
    for name, value in brute_force(prediction, truth, SPACING).items():
        assert row[name] == pytest.approx(value, rel=1e-9), name


def case(folder, number, truth, prediction):
    affine = np.diag([*SPACING, 1.0])
    files = {
        "image": (f"c{number}_hrT2", truth.astype(np.float32)),
        "label": (f"c{number}_Label", truth),
        "prediction": (f"c{number}_seg", prediction),
    }
    item = {"case": f"c{number}", "site": "ukm"}
    for key, (name, array) in files.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
        item[key] = str(folder / f"{name}.nii.gz")
    return item


@pytest.fixture
def cases(tmp_path):
    """Two cases of three classes: the first predicted rightly, the second with one voxel layer in the wrong part."""
    truth = np.zeros((10, 6, 5), np.uint8)
    truth[2:5, 2:5, 1:4], truth[5:8, 2:5, 1:4], truth[9, 2:4, 2] = 1, 2, 3
    wrong = truth.copy()
    wrong[5, 2:5, 1:4] = 1
    return [case(tmp_path, number, truth, prediction) for number, prediction in enumerate((truth, wrong))]


def write_list(cases, path, label_map):
    items = [{key: item[key] for key in ("case", "site", "image", "label")} for item in cases]
    write_datalist({"target_validation": items}, path, label_map)
    return path


def test_evaluation_of_three_classes(cases, tmp_path, caplog):
    path = write_list(cases, tmp_path / "list.json", MERGE_2023)
    with caplog.at_level(logging.INFO, "crossmoda.metrics.segmentation"):
        summary = evaluate(tmp_path, path, "target_validation", tmp_path / "out", part_map=IDENTITY)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    two_class = list(evaluate_pair(np.ones((2, 2, 2), int), np.ones((2, 2, 2), int), (1, 1, 1)))
    assert list(rows[0])[: 3 + len(two_class)] == ["case", "site", "koos", *two_class]  # as ever, then the parts
    assert rows[0]["dice_VS"] == rows[1]["dice_VS"] == rows[1]["dice_cochlea"] == 1  # the union is right both times
    assert (rows[0]["dice_extra"], rows[0]["assd_boundary"]) == (1, 0)
    assert rows[1]["dice_extra"] == pytest.approx(2 * 27 / (27 + 36), rel=1e-5)
    assert rows[1]["dice_intra"] == pytest.approx(2 * 18 / (27 + 18), rel=1e-5)
    assert rows[1]["assd_boundary"] == pytest.approx(SPACING[0])
    group = summary["all"]
    assert group["assd"]["boundary"]["mean"] == pytest.approx(SPACING[0] / 2)
    assert set(group["dice"]) == {"VS", "cochlea", "extra", "intra", "mean"}
    assert set(group["assd"]) == {"VS", "cochlea", "extra", "intra", "boundary", "mean"}
    assert group["dice"]["mean"]["mean"] == 1  # of VS and cochlea, as without parts
    assert group["empty_predictions"] == {"VS": 0, "cochlea": 0, "extra": 0, "intra": 0}
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["VS", "cochlea", "extra", "intra", "boundary"]


def test_other_orders_of_the_parts(cases, tmp_path):
    """Truth files with 1 intra-meatal and 2 extra-meatal: `part_map` says so."""
    swapped = {0: 0, 1: 2, 2: 1, 3: 3}
    for item in cases:
        label = nib.load(item["label"])
        array = np.array([0, 2, 1, 3], np.uint8)[np.asarray(label.dataobj)]
        nib.save(nib.Nifti1Image(array, label.affine), item["label"])
    path = write_list(cases, tmp_path / "list.json", MERGE_2023)
    evaluate(tmp_path, path, "target_validation", tmp_path / "out", part_map=swapped)
    assert read_metrics(tmp_path / "out" / "metrics.csv")[0]["dice_extra"] == 1


def test_three_classes_on_a_truth_of_two(cases, tmp_path, caplog):
    for item in cases:
        label = nib.load(item["label"])
        array = np.array([0, 1, 1, 2], np.uint8)[np.asarray(label.dataobj)]
        nib.save(nib.Nifti1Image(array, label.affine), item["label"])
    path = write_list(cases, tmp_path / "list.json", None)
    with caplog.at_level(logging.INFO, "crossmoda.metrics.segmentation"):
        summary = evaluate(tmp_path, path, "target_validation", tmp_path / "out", part_map=IDENTITY)
    assert "are not divided into parts" in caplog.text
    assert summary["all"]["dice"]["VS"]["mean"] == summary["all"]["dice"]["cochlea"]["mean"] == 1
    assert set(summary["all"]["assd"]) == {"VS", "cochlea", "mean"}
    with pytest.raises(InputError, match="label values 3"):  # predictions of three classes taken for two
        evaluate(tmp_path, path, "target_validation", tmp_path / "out")


def test_rows_without_parts_are_summarised_as_ever():
    without = {
        "case": "a",
        "site": "x",
        **evaluate_pair(np.eye(2, dtype=int)[..., None], np.zeros((2, 2, 1), int), (1, 1, 1)),
    }
    summary = summarise([without, without | evaluate_parts(row_of("012"), row_of("012"), (1, 1, 1))])
    assert list(summary["all"]["dice"]) == ["VS", "cochlea", "mean"]
    assert list(summary["all"]["empty_predictions"]) == ["VS", "cochlea"]
