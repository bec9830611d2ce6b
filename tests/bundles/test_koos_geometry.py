"""geometry_train, geometry, combine and evaluate of the koos-classifier bundle, run as a user runs them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from koos_heads import AFFINE, write_heads
from monai.bundle import ConfigParser, run

from crossmoda.data import save_nifti

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles/koos-classifier/configs"
QUIET = {"progress": False, "threads": 1}


def bundle(name: str, **overrides) -> None:
    run(config_file=str(CONFIGS / f"{name}.yaml"), **overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """datalist.json (12 graded source cases, 4 hidden scans), oracle.json (with grades), masks/."""
    folder = tmp_path_factory.mktemp("koos") / "with space"
    items = write_heads(folder / "source")
    source = []
    for item in items:
        source.append({**item, "image": item["mask"], "label": item["mask"]})  # only labels are looked at
        del source[-1]["mask"]
    hidden, graded = [], []
    for item in write_heads(folder / "masks", 4):
        scan = folder / "hidden" / f"{item['case']}_hrT2.nii.gz"
        save_nifti(np.random.RandomState(0).randint(0, 99, (90, 40, 24)).astype(np.int16), AFFINE, scan)
        hidden.append({"case": item["case"], "site": "ldn", "image": str(scan)})
        graded.append({**hidden[-1], "koos": item["koos"]})
    (folder / "datalist.json").write_text(json.dumps({"source_training": source, "target_validation": hidden}))
    (folder / "oracle.json").write_text(json.dumps({"target_validation": graded}))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("geometry")
    settings = {"num_folds": 3, "copies": 1, "output_dir": str(out), **QUIET}
    bundle("geometry_train", data_list=str(data / "datalist.json"), **settings)
    return out


@pytest.fixture(scope="module")
def graded(data, trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("grades")
    files = {"data_list": str(data / "datalist.json"), "masks": str(data / "masks"), "geometry_dir": str(trained)}
    bundle("geometry", output_dir=str(out), **files, **QUIET)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_of_a_segmenter_are_graded(graded) -> None:
    found = rows(graded / "grades.csv")
    assert [row["class"] for row in found] == ["1", "2", "3", "4"]
    assert float(found[0]["brainstem_distance_mm"]) > float(found[2]["brainstem_distance_mm"])
    assert sorted(path.name for path in graded.glob("*.json")) == [f"case_{n}_koos.json" for n in range(4)]


def test_one_scan_from_another_directory(data, trained, graded, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scan = os.path.relpath(data / "hidden" / "case_3_hrT2.nii.gz")
    mask = str(data / "masks" / "case_3_seg.nii.gz")
    bundle("geometry", input=scan, mask=mask, geometry_dir=str(trained), output_dir="out", **QUIET)
    assert rows(tmp_path / "out" / "grades.csv")[0] == rows(graded / "grades.csv")[3]


def test_grades_are_judged(data, graded, tmp_path) -> None:
    files = {"grades": str(graded / "grades.csv"), "data_list": str(data / "oracle.json")}
    bundle("evaluate", output_dir=str(tmp_path), **files)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["all"]["ma_mae"] == 0
    assert summary["constant_guess"]["2"] == {"ma_mae": 1.0, "ma_mse": 1.5}
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json",
        "metrics.csv",
        "confusion.png",
        "calibration.png",
    }


def test_combination_with_a_given_and_with_the_best_weight(data, trained, graded, tmp_path) -> None:
    # A "network" that always knows less than the baseline: its probabilities mixed with equal ones.
    for source, name in ((graded / "grades.csv", "network.csv"), (trained / "out_of_fold/grades.csv", "source.csv")):
        lines = [f"{row['case']},1,0.25,0.25,0.25,0.25" for row in rows(source)]
        (tmp_path / name).write_text("case,class,p1,p2,p3,p4\n" + "\n".join(lines) + "\n")
    tables = {"network": str(tmp_path / "network.csv"), "geometry": str(graded / "grades.csv")}
    bundle("combine", output_dir=str(tmp_path / "half"), **tables)
    for row, before in zip(rows(tmp_path / "half/grades.csv"), rows(graded / "grades.csv"), strict=True):
        assert float(row["p3"]) == pytest.approx((0.25 + float(before["p3"])) / 2, abs=1e-5)
        assert row["volume_ml"] == before["volume_ml"]
    sources = {
        "network_source": str(tmp_path / "source.csv"),
        "geometry_source": str(trained / "out_of_fold/grades.csv"),
        "data_list": str(data / "datalist.json"),
    }
    bundle("combine", weight="best", output_dir=str(tmp_path / "best"), **tables, **sources)
    for row, before in zip(rows(tmp_path / "best/grades.csv"), rows(graded / "grades.csv"), strict=True):
        share = (float(row["p3"]) - float(before["p3"])) / (0.25 - float(before["p3"]))
        assert share < 0.5


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("geometry", {"masks": "masks", "data_list": "datalist.json"}, "features.csv is missing"),
        ("geometry", {"masks": "nowhere", "data_list": "datalist.json"}, "segment case_0 first"),
        ("geometry_train", {"data_list": "datalist.json", "model": "tree"}, "forest, ordinal or both"),
        ("geometry_train", {"data_list": "oracle.json"}, "source_training"),
        ("combine", {"network": "a.csv", "geometry": "b.csv"}, "missing"),
        ("combine", {}, "give --network and --geometry"),
        ("combine", {"weight": "best"}, "needs --network_source"),
        ("evaluate", {"grades": "a.csv", "data_list": "oracle.json"}, "a.csv is missing"),
        ("evaluate", {"grades": "a.csv", "data_list": "datalist.json"}, "has no 'koos'"),
    ],
)
def test_faults_are_one_line_and_write_nothing(data, tmp_path, monkeypatch, capfd, name, overrides, message) -> None:
    monkeypatch.chdir(data)
    more = {"copies": 0, "num_folds": 3} if name == "geometry_train" else {}
    more |= {"geometry_dir": str(tmp_path / "none")} if name == "geometry" else {}
    more |= QUIET if name.startswith("geometry") else {}
    with pytest.raises(SystemExit) as exit_:
        bundle(name, output_dir=str(tmp_path / "out"), **overrides, **more)
    assert exit_.value.code != 0
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_nothing_but_the_evaluation_reads_target_grades() -> None:
    configs = {name: ConfigParser.load_config_file(CONFIGS / f"{name}.yaml") for name in ("geometry_train", "combine")}
    assert configs["geometry_train"]["section"] == "source_training"
    assert "target" not in json.dumps(configs)


def test_both_geometry_configs_answer_alike() -> None:
    train, grade = (ConfigParser.load_config_file(CONFIGS / f"{name}.yaml") for name in ("geometry_train", "geometry"))
    inference = ConfigParser.load_config_file(CONFIGS / "inference.yaml")
    combine = ConfigParser.load_config_file(CONFIGS / "combine.yaml")
    assert len({config["unsure_below"] for config in (train, grade, inference, combine)}) == 1
    assert train["output_dir"] == grade["geometry_dir"]
