import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_dice

from crossmoda.data import write_datalist
from crossmoda.errors import InputError
from crossmoda.metrics import (
    assd,
    dice_per_class,
    evaluate,
    evaluate_cases,
    evaluate_or_exit,
    evaluate_pair,
    read_metrics,
    summarise,
)

AFFINE = np.array([[0, -0.6, 0, 9], [0.5, 0, 0, 4], [0, 0, 1.5, -3], [0, 0, 0, 1.0]])  # edges 0.5, 0.6, 1.5 mm


def slab(text, depth=1):
    """A label map of shape (3, 3, depth) from a picture."""
    return np.repeat(np.array([list(row) for row in text.split()], np.uint8)[..., None], depth, axis=2)


def test_dice_by_hand():
    truth, prediction = slab("110 110 002"), slab("111 000 022")
    # VS: 4 voxels, 3 predicted, 2 shared; cochlea: 1, 2 predicted, 1 shared
    assert dice_per_class(prediction, truth) == {1: pytest.approx(4 / 7), 2: pytest.approx(2 / 3)}


def test_dice_of_empty_classes():
    empty, full = slab("000 000 000"), slab("111 000 000")
    assert dice_per_class(empty, full) == {1: 0, 2: 1}
    assert dice_per_class(full, empty) == {1: 0, 2: 1}
    assert dice_per_class(empty, empty) == {1: 1, 2: 1}


def test_assd_by_hand():
    one, other = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    one[0, 0, 0], other[0, 0, 2] = True, True
    assert assd(one, other, (0.5, 0.5, 1.5)) == pytest.approx(3.0)
    other[0, 1, 0] = True
    # from `one` 0.5 mm; from `other` 3 mm and 0.5 mm: mean of 0.5 and 1.75
    assert assd(one, other, (0.5, 0.5, 1.5)) == pytest.approx((0.5 + 1.75) / 2)
    assert assd(one, one, (1, 1, 1)) == 0


def test_inner_voxels_are_no_surface():
    cube, shell = np.zeros((7, 7, 7), bool), np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    shell[:] = cube
    shell[2:5, 2:5, 2:5] = False
    outer = assd(cube, shell, (1, 1, 1))
    # the shell's voxels that touch the hollow lie on the cube's surface as well: only the distances of 0 remain
    assert outer == 0


def test_assd_of_empty_masks():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert assd(empty, full, (1, 1, 1)) == assd(full, empty, (1, 1, 1)) == 350
    assert assd(empty, empty, (1, 1, 1)) == 0


@pytest.mark.parametrize("seed", range(4))
def test_against_monai(seed):
    random = np.random.RandomState(seed)
    smooth = torch.nn.functional.avg_pool3d(torch.from_numpy(random.rand(2, 1, 24, 20, 14)), 5, 1, 2)[:, 0].numpy()
    prediction, truth = (smooth > np.quantile(smooth, 0.8)).astype(np.uint8)
    truth[:, :, 0] = 1  # a mask at the border
    spacing = (0.41, 0.5, 1.5)
    batch = [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (prediction, truth)]
    directed = [
        float(compute_average_surface_distance(a, b, include_background=True, symmetric=False, spacing=spacing))
        for a, b in (batch, batch[::-1])
    ]
    assert assd(prediction > 0, truth > 0, spacing) == pytest.approx(np.mean(directed), rel=1e-5)
    assert dice_per_class(prediction, truth)[1] == pytest.approx(float(compute_dice(*batch)), rel=1e-6)


def test_row_of_a_case():
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[:2], truth[4] = 1, 2
    row = evaluate_pair(truth, truth, (1, 1, 2))
    assert row["dice_VS"] == row["dice_cochlea"] == 1
    assert row["assd_VS"] == row["assd_cochlea"] == 0
    assert row["truth_ml_VS"] == row["prediction_ml_VS"] == pytest.approx(0.144)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def cases(tmp_path):
    """Two cases: the first predicted rightly, the second without VS."""
    truth = np.zeros((12, 10, 8), np.uint8)
    truth[2:5, 2:5, 2:5], truth[8, 8, 4:6] = 1, 2
    items = []
    for number, site in enumerate(("ldn", "etz")):
        prediction = truth * (truth != 1) if number else truth
        items.append(
            {
                "case": f"c{number}",
                "site": site,
                "koos": 2,
                "image": save(tmp_path / "scans" / f"c{number}_hrT2.nii.gz", truth.astype(np.float32)),
                "label": save(tmp_path / "truth" / f"c{number}_Label.nii.gz", truth),
                "prediction": save(tmp_path / "predictions" / f"c{number}_seg.nii.gz", prediction),
            }
        )
    keys = ("case", "site", "koos", "image", "label")
    write_datalist({"target_validation": [{key: item[key] for key in keys} for item in items]}, tmp_path / "list.json")
    return items


def test_rows_and_summary(cases):
    rows = evaluate_cases(cases)
    assert [(row["case"], row["site"], row["koos"]) for row in rows] == [("c0", "ldn", 2), ("c1", "etz", 2)]
    assert [row["dice_VS"] for row in rows] == [1, 0]
    assert [row["assd_VS"] for row in rows] == [0, 350]
    assert rows[0]["truth_ml_VS"] == pytest.approx(27 * 0.45 / 1000)
    summary = summarise(rows)
    assert summary["all"]["n"] == 2
    assert summary["all"]["dice"]["VS"] == {"mean": 0.5, "sd": pytest.approx(np.sqrt(0.5)), "median": 0.5}
    assert summary["all"]["dice"]["mean"]["mean"] == pytest.approx(0.75)
    assert summary["all"]["empty_predictions"] == {"VS": 1, "cochlea": 0}
    assert summary["sites"]["etz"]["assd"]["VS"] == {"mean": 350, "sd": None, "median": 350}
    with pytest.raises(InputError, match="no cases"):
        summarise([])


def test_evaluate_writes_and_reads_back(cases, tmp_path):
    summary = evaluate(tmp_path / "predictions", tmp_path / "list.json", "target_validation", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    assert rows[1]["case"] == "c1"
    assert rows[1]["koos"] == "2"
    assert rows[1]["assd_VS"] == 350
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.csv", "summary.json"]


def test_three_class_truth_is_merged(cases, tmp_path):
    truth = np.asanyarray(nib.load(cases[0]["label"]).dataobj).copy()
    truth[truth == 2] = 3
    truth[3:5][truth[3:5] == 1] = 2
    save(tmp_path / "truth" / "c0_Label.nii.gz", truth)
    three = {0: 0, 1: 1, 2: 1, 3: 2}
    write_datalist({"target_validation": [cases[0]]}, tmp_path / "list.json", three)
    summary = evaluate(tmp_path / "predictions", tmp_path / "list.json", "target_validation", tmp_path / "out")
    assert summary["all"]["dice"]["VS"]["mean"] == summary["all"]["dice"]["cochlea"]["mean"] == 1


def test_three_class_predictions_are_merged(cases, tmp_path):
    predicted = np.asanyarray(nib.load(cases[0]["prediction"]).dataobj).copy()
    predicted[predicted == 2] = 3
    predicted[3:5][predicted[3:5] == 1] = 2
    save(tmp_path / "predictions" / "c0_seg.nii.gz", predicted)
    write_datalist({"target_validation": [cases[0]]}, tmp_path / "list.json")
    arguments = (tmp_path / "predictions", tmp_path / "list.json", "target_validation", tmp_path / "out")
    summary = evaluate(*arguments, prediction_map={0: 0, 1: 1, 2: 1, 3: 2})
    assert summary["all"]["dice"]["VS"]["mean"] == summary["all"]["dice"]["cochlea"]["mean"] == 1
    with pytest.raises(InputError):  # without it, class 3 is foreign
        evaluate(*arguments)


def test_one_prediction_is_not_judged_twice(cases, tmp_path):
    write_datalist({"target_validation": [cases[0], cases[0] | {"image": cases[1]["image"]}]}, tmp_path / "list.json")
    with pytest.raises(InputError, match="are both of case c0"):
        evaluate(tmp_path / "predictions", tmp_path / "list.json", "target_validation")


def test_faults_are_one_line(cases, tmp_path, capsys):
    arguments = tmp_path / "predictions", tmp_path / "list.json", "target_validation", tmp_path / "out"
    save(tmp_path / "predictions" / "c1_seg.nii.gz", np.zeros((12, 10, 8), np.uint8), np.eye(4))
    with pytest.raises(SystemExit) as caught:
        evaluate_or_exit(*arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "c1_seg.nii.gz lies on another grid than" in message
    (tmp_path / "predictions" / "c1_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"c1_seg\.nii\.gz is missing: run the inference"):
        evaluate(*arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["case,site,koos,dice_VS\na,ldn,1,x\n", "case,dice_VS\na\n"])
def test_wrong_table(tmp_path, text):
    with pytest.raises(InputError, match="run the evaluation first"):
        read_metrics(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match="is not a table of metrics"):
        read_metrics(tmp_path / "metrics.csv")
