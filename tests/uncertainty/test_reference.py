"""Likeness to the training data."""

import json

import numpy as np
import pytest

from crossmoda.errors import InputError
from crossmoda.uncertainty import read_reference, scan_features, summarise_features, unlike_training, write_reference


def test_features_of_a_scan():
    random = np.random.RandomState(0)
    image = 100 + 7 * random.randn(60, 50, 40)
    image[:5] = 0  # padding
    features = scan_features(image, (0.5, 0.6, 1.5), (512, 400, 80))
    assert [features[f"spacing_{axis}_mm"] for axis in "xyz"] == [0.5, 0.6, 1.5]
    assert [features[f"extent_{axis}_mm"] for axis in "xyz"] == pytest.approx([256, 240, 120])
    assert features["noise"] == pytest.approx(7, rel=0.03)
    for percent, expected in ((1, 100 - 7 * 2.326), (50, 100), (99, 100 + 7 * 2.326)):
        assert features[f"intensity_p{percent:02d}"] == pytest.approx(expected, abs=0.6)
    ramp = np.broadcast_to(np.arange(60.0)[:, None, None], (60, 50, 40))
    assert scan_features(ramp, (1, 1, 1), (60, 50, 40))["noise"] == 0
    assert all(np.isfinite(list(scan_features(np.zeros((4, 4, 4)), (1, 1, 1), (4, 4, 4)).values())))


@pytest.mark.parametrize("value", [0, -20])
def test_padding_is_not_looked_at(value):
    """As `SpatialPad` pads: of an odd number the last end gets one more, so that its corner is always padding."""
    scan = np.random.RandomState(0).randn(30, 30, 12).astype(np.float32)
    expected = scan_features(scan, (1, 1, 1), scan.shape)
    for before, after in (((20, 20, 10), (20, 20, 10)), ((0, 0, 0), (0, 0, 1))):
        padded = np.pad(scan, list(zip(before, after, strict=True)), constant_values=value)
        assert scan_features(padded, (1, 1, 1), scan.shape) == pytest.approx(expected, abs=0.01)


def test_summary_by_hand():
    cases = [
        {"spacing_x_mm": value, "VS_ml": volume}
        for value, volume in zip((1, 2, 3, 4, 10), (1, 1, 1, 1, 0), strict=True)
    ]
    summary = summarise_features(cases)
    assert summary["cases"] == 5
    row = summary["features"]["spacing_x_mm"]
    assert row["median"] == 3
    assert row["spread"] == pytest.approx(1.4826)  # of the deviations 2, 1, 0, 1, 7
    assert (row["low"], row["high"]) == pytest.approx((1.04, 9.76))
    volume = summary["features"]["VS_ml"]
    assert (volume["median"], volume["spread"]) == (0, 0)
    assert volume["low"] == pytest.approx(0.96 * np.log(0.01))
    assert summarise_features(cases[:4]) == {"cases": 4, "features": {}}


def test_far_is_beyond_the_spread_and_beyond_the_range():
    row = {"median": 10.0, "spread": 1.0, "low": 4.0, "high": 12.0}
    reference = {"features": {"noise": row}}
    assert unlike_training({"noise": 14.9}, reference, 5) == {}
    assert unlike_training({"noise": 15.5}, reference, 5) == {"noise": 5.5}
    assert unlike_training({"noise": 4.5}, reference, 5) == {}  # far, but in the range of the training data
    assert unlike_training({"noise": 3.0}, reference, 5) == {"noise": -7.0}
    assert unlike_training({"noise": None}, reference, 5) == unlike_training({}, reference, 5) == {}
    row["spread"] = 0.0  # one protocol: 5 % of the median is one spread
    assert unlike_training({"noise": 12.4}, reference, 5) == {}
    assert unlike_training({"noise": 12.6}, reference, 5) == {"noise": 5.2}


def test_written_from_reports_and_read_back(tmp_path):
    for n in range(6):
        (tmp_path / f"c{n}_seg.json").write_text(json.dumps({"features": {"noise": n, "entropy": None if n else 0.1}}))
    cases = [f"c{n}" for n in range(6)]
    reference = write_reference(tmp_path, cases, tmp_path / "models" / "reference.json")
    assert read_reference(tmp_path / "models" / "reference.json") == reference
    assert reference["features"].keys() == {"noise"}  # one entropy is too few
    assert reference["features"]["noise"]["median"] == 2.5
    with pytest.raises(InputError, match=r"c9_seg\.json is missing"):
        write_reference(tmp_path, [*cases, "c9"], tmp_path / "models" / "reference.json")
    (tmp_path / "c9_seg.json").write_text('{"features": null}')  # fuse.py knows no scan
    with pytest.raises(InputError, match=r"c9_seg\.json is missing or no report"):
        write_reference(tmp_path, ["c9", *cases], tmp_path / "models" / "reference.json")


def test_too_few_cases_say_nothing_of_any_scan(tmp_path, caplog):
    for n in range(5):
        (tmp_path / f"c{n}_seg.json").write_text(json.dumps({"features": {"noise": n}}))
    path = tmp_path / "reference.json"
    write_reference(tmp_path, [f"c{n}" for n in range(5)], path)
    assert read_reference(path)["cases"] == 5
    assert not caplog.records
    write_reference(tmp_path, [f"c{n}" for n in range(4)], path)
    assert read_reference(path) is None
    assert [record.getMessage() for record in caplog.records] == [
        "4 case(s) can't say what the training data looks like, 5 could: no scan will be flagged as unlike it"
    ]


def test_reference_files(tmp_path):
    assert read_reference(None) is None
    assert read_reference(tmp_path / "none.json") is None
    for text in ("[", "[]", '{"features": {"noise": {"median": 1}}}', '{"features": {"noise": 3}}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json is not a reference"):
            read_reference(tmp_path / "a.json")
