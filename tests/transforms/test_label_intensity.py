import pytest
import torch
from monai.data import MetaTensor

from crossmoda.transforms import LabelVolumesd, RandLabelIntensityd

SHAPE = (1, 20, 18, 10)


@pytest.fixture
def item():
    label = torch.zeros(SHAPE)
    label[:, 4:10, 4:10, 3:7] = 1
    label[:, 14:17, 12:15, 4:6] = 2
    return {
        "image": MetaTensor(torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))),
        "label": MetaTensor(label),
    }


def make(**arguments):
    arguments = {"labels": [1, 2], "ranges": [[0.5, 0.5], [1.5, 2.0]], "prob": 1.0, **arguments}
    return RandLabelIntensityd("image", "label", **arguments).set_random_state(0)


def test_only_the_labels_voxels_are_multiplied_within_range(item):
    ratio = make()(item)["image"].as_tensor() / item["image"].as_tensor()
    label = item["label"]
    assert torch.allclose(ratio[label == 1], torch.tensor(0.5))
    assert torch.allclose(ratio[label == 0], torch.tensor(1.0))
    factor = ratio[label == 2]
    assert float(factor.min()) >= 1.5
    assert float(factor.max()) <= 2.0
    assert float(factor.std()) < 1e-6


def test_levels_take_the_place_of_the_voxels(item):
    out = make(ranges=[[0.3, 0.3], [0.6, 0.9]], replace=True)(item)["image"].as_tensor()
    label = item["label"].as_tensor()
    assert torch.allclose(out[label == 1], torch.tensor(0.3))
    assert torch.equal(out[label == 0], item["image"].as_tensor()[label == 0])
    levels = out[label == 2]
    assert 0.6 <= float(levels.min()) <= float(levels.max()) <= 0.9
    assert float(levels.std()) < 1e-6
    soft = make(ranges=[[0.3, 0.3], [1, 1]], replace=True, edge_sigma=1.0)(item)["image"].as_tensor()
    rim = (0, 4, 6, 5)  # half within: between the level and what was there
    assert sorted([0.3, float(item["image"][rim]), float(soft[rim])])[1] == float(soft[rim])


@pytest.mark.parametrize("arguments", [{}, {"replace": True}, {"edge_sigma": 1.0, "heterogeneity": 0.2}])
def test_another_range_of_values_changes_alike(item, arguments):
    unit = make(**arguments)(item)["image"].as_tensor()
    signed = {**item, "image": item["image"] * 2 - 1}
    out = make(value_range=(-1, 1), **arguments)(signed)["image"].as_tensor()
    assert torch.allclose(out, unit * 2 - 1, atol=1e-6)
    assert not torch.allclose(out, signed["image"].as_tensor())


def test_label_and_input_stay(item):
    before = item["image"].clone(), item["label"].clone()
    out = make()(item)
    assert torch.equal(item["image"], before[0])
    assert torch.equal(out["label"], before[1])


@pytest.mark.parametrize("arguments", [{"prob": 0.0}, {"ranges": [[1, 1], [1, 1]]}, {"only_if": "translated"}])
def test_no_op(item, arguments):
    assert torch.equal(make(**arguments)(item)["image"], item["image"])


def test_only_if(item):
    out = make(only_if="translated")({**item, "translated": True})
    assert not torch.equal(out["image"], item["image"])


def test_probability_is_for_each_label(item):
    transform = make(prob=0.5)
    changed = []
    for _ in range(400):
        transform.randomize()
        changed.append([factor is not None for factor in transform.factors])
    for label in (0, 1):
        assert sum(pair[label] for pair in changed) / 400 == pytest.approx(0.5, abs=0.1)
    assert sum(all(pair) for pair in changed) / 400 == pytest.approx(0.25, abs=0.1)


def test_soft_edge_is_monotone_and_reaches_the_factor_inside(item):
    item["image"] = MetaTensor(torch.ones(SHAPE))
    line = make(edge_sigma=1.0, labels=[1], ranges=[[0.0, 0.0]])(item)["image"][0, :8, 7, 5]
    assert line[0] == pytest.approx(1.0, abs=1e-2)
    assert line[7] < 0.1
    assert (line[1:] <= line[:-1]).all()


def test_heterogeneity_has_its_standard_deviation(item):
    item["image"] = MetaTensor(torch.ones(SHAPE))
    values = make(labels=[1], ranges=[[1.0, 1.0]], heterogeneity=0.1)(item)["image"][item["label"] == 1]
    assert float(values.std()) == pytest.approx(0.1, rel=0.05)


def test_absent_label_is_skipped(item):
    item["label"] = MetaTensor(torch.zeros(SHAPE))
    assert torch.equal(make()(item)["image"], item["image"])


def test_discrete_factors_are_equally_likely():
    transform = make(labels=[1], ranges=[[0.7, 1.2, 1.5]], discrete=True)
    drawn = []
    for _ in range(600):
        transform.randomize()
        drawn += transform.factors
    assert set(drawn) == {0.7, 1.2, 1.5}
    for factor in (0.7, 1.2, 1.5):
        assert drawn.count(factor) / 600 == pytest.approx(1 / 3, abs=0.07)


def test_volumes_are_in_mm3_of_the_whole_scan(item):
    affine = torch.diag(torch.tensor([-0.5, 0.5, 2.0, 1.0], dtype=torch.float64))
    item["label"].affine = affine
    measured = LabelVolumesd("label")(item)
    # 6 x 6 x 4 and 3 x 3 x 2 voxels of 0.5 mm3
    assert measured["label_volumes"] == {1: pytest.approx(72.0), 2: pytest.approx(9.0)}
    assert "label_volumes" not in item


@pytest.mark.parametrize(
    ("volumes", "ratio"),
    [
        ([[None, 100], [200, None]], (0.5, 1.0)),  # 72 mm3 is small, 9 mm3 is not large
        ([[100, None], None], (1.0, 2.0)),
        ([[72.5, None], [5, 12]], (1.0, 2.0)),
        ([[None, 71.5], [9.5, 12]], (1.0, 1.0)),
    ],
)
def test_only_structures_of_some_size_change(item, volumes, ratio):
    item["label"].affine = torch.diag(torch.tensor([0.5, 0.5, 2.0, 1.0], dtype=torch.float64))
    item = LabelVolumesd("label")(item)
    # A patch that cuts the tumour, as a random crop would.
    patch = {key: value[:, 5:] if key in ("image", "label") else value for key, value in item.items()}
    out = make(ranges=[[0.5, 0.5], [2.0, 2.0]], volumes=volumes)(patch)["image"] / patch["image"]
    for label, expected in zip((1, 2), ratio, strict=True):
        assert torch.allclose(out[patch["label"] == label].as_tensor(), torch.tensor(expected))


def test_volumes_of_one_label_may_divide_it(item):
    item["label_volumes"] = {1: 3000.0, 2: 50.0}
    options = {"labels": [1, 1], "ranges": [[0.7], [0.6]], "discrete": True, "volumes": [[2340, None], [None, 288]]}
    inside = item["label"] == 1
    for volume, factor in ((3000.0, 0.7), (1000.0, 1.0), (100.0, 0.6)):
        item["label_volumes"][1] = volume
        out = make(**options)(item)["image"]
        assert torch.allclose(out[inside], factor * item["image"][inside])


def test_unmeasured_volume_is_refused(item):
    with pytest.raises(ValueError, match="put LabelVolumesd before the crop"):
        make(volumes=[[10, None], None])(item)


def test_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match="range"):
        make(ranges=[[0.5, 0.5]])
    with pytest.raises(ValueError, match="volumes"):
        make(volumes=[None])
    with pytest.raises(ValueError, match="black < white"):
        make(value_range=(1, -1))
    with pytest.raises(ValueError, match=">= 0"):
        make(ranges=[[-1, 0.5], [1, 2]], discrete=True)
    with pytest.raises(ValueError, match="low <= high"):
        make(ranges=[[0.5, 0.4], [1, 2]])


def test_parts_of_a_structure_change_alike(item):
    """The tumour's extra-meatal and intra-meatal part: one factor, one edge, one volume."""
    merged = {key: value.clone() for key, value in item.items()}
    divided = {key: value.clone() for key, value in item.items()}
    divided["label"][item["label"] == 2] = 3
    divided["label"][:, 7:][divided["label"][:, 7:] == 1] = 2
    arguments = {"ranges": [[0.5, 0.9], [1.5, 2.0]], "edge_sigma": 1.0, "heterogeneity": 0.2}
    expected = make(labels=[1, 2], **arguments)(merged)["image"]
    assert torch.equal(make(labels=[[1, 2], 3], **arguments)(divided)["image"], expected)
    assert not torch.equal(expected, item["image"])
    volume = float((item["label"] == 1).sum())
    for low, changes in ((volume - 1, True), (volume + 1, False)):
        arguments = {"labels": [[1, 2]], "ranges": [[0.5, 0.5]], "volumes": [[low, None]]}
        out = make(**arguments)(LabelVolumesd("label", (1, 2, 3))(divided))["image"]
        assert torch.equal(out, item["image"]) != changes
