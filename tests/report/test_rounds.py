"""The page of a self-training round."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data import save_nifti
from crossmoda.labels import IGNORE
from crossmoda.postprocessing import Classes
from crossmoda.report import rounds
from crossmoda.report.rounds import _spread, write_round_page

AFFINE = np.diag([0.8, 0.8, 1.5, 1.0])
SHAPE = (24, 20, 6)


@pytest.fixture
def folder(tmp_path):
    """Round 1 with three cases: two kept, one rejected."""
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 5:9, 2:4], label[15:17, 5:7, 2:4] = 1, 2
    for number in (0, 1):
        for case in "abc":
            save_nifti(np.roll(label, number, axis=1), AFFINE, tmp_path / f"round_{number}/fused/{case}_seg.nii.gz")
    folder = tmp_path / "round_1"
    for case in "abc":
        save_nifti(np.random.RandomState(0).rand(*SHAPE).astype(np.float32), AFFINE, tmp_path / f"{case}_hrT2.nii.gz")
        pseudo = label.copy()
        pseudo[9] = IGNORE
        save_nifti(pseudo, AFFINE, folder / "pseudo_labels" / f"{case}_Label.nii.gz")
    rows = ["case,site,kept,reason,entropy", "a,ldn,yes,,0.1", "b,ldn,no,entropy 0.9 > 0.4 <b>,0.9", "c,ldn,yes,,0.2"]
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    dice = {"VS": 0.5, "cochlea": 0.25, "mean": 0.375}
    metrics = {"round": 1, "networks": ["m_fold0"], "cases": 3, "kept": 2, "kept_share": 2 / 3, "plausible_share": 1.0}
    metrics |= {"agreement": dice, "agreement_of_cases": dict.fromkeys("abc", dice), "source_dice": {"mean": 0.8}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def items(folder):
    return [{"case": case, "image": str(folder.parent / f"{case}_hrT2.nii.gz")} for case in "abc"]


def test_page_shows_kept_rejected_and_changed(folder):
    write_round_page(folder, items(folder), folder.parent / "round_0/fused", Classes())
    page = (folder / "index.html").read_text()
    for text in ("kept", "rejected", "changed most", "2 (67%)", "cochlea 0.250", "m_fold0"):
        assert text in page, text
    assert page.count("data:image/png;base64,") == 3
    assert "entropy 0.9 &gt; 0.4 &lt;b&gt;" in page  # texts are escaped
    assert page.index("<td>b</td>") < page.index("<td>a</td>")  # rejected ones first
    assert sorted(path.stem for path in (folder / "pictures").iterdir()) == ["changed", "kept", "rejected"]


def test_page_of_a_round_that_kept_no_case(folder):
    rows = ["case,site,kept,reason,entropy", *[f"{case},ldn,no,entropy 0.9 > 0.4,0.9" for case in "abc"]]
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    metrics = {"round": 1, "networks": [], "cases": 3, "kept": 0, "kept_share": 0.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_round_page(folder, items(folder), None, Classes())
    assert "0 (0%)" in (folder / "index.html").read_text()
    assert [path.stem for path in (folder / "pictures").iterdir()] == ["rejected"]


def test_pseudo_labels_may_have_other_classes_than_the_networks(folder, monkeypatch):
    """crossMoDA 2023: 1 and 2 are the tumour's parts, 3 is the cochlea; a data list merges the parts."""
    for path in (folder / "pseudo_labels").iterdir():
        image = nib.load(path)
        label = np.asarray(image.dataobj)
        save_nifti(np.where(label == 2, 3, label).astype(np.uint8), AFFINE, path)
    shown = []
    monkeypatch.setattr(rounds, "show", lambda axes, scan, window, outlines: shown.append(outlines))
    write_round_page(folder, items(folder), None, Classes(), Classes((1,), 3))
    counts = {(int(outlines[0][0].sum()), int(outlines[1][0].sum())) for outlines in shown}
    assert counts == {(32, 8)}  # voxels of VS, and of the cochlea


def test_page_of_round_zero_shows_predictions(folder):
    zero = folder.parent / "round_0"
    (zero / "metrics.json").write_text(json.dumps({"round": 0, "networks": ["m"], "cases": 3}))
    write_round_page(zero, items(folder), None, Classes())
    assert [path.stem for path in (zero / "pictures").iterdir()] == ["predicted"]


def test_pictures_are_spread_over_the_cases():
    assert _spread([str(n) for n in range(11)]) == ["0", "2", "4", "6", "8", "10"]
    assert _spread(["x"]) == ["x"]
