"""The region around the inner ears: its place in scans lying any way, the crop and its way back, and the failures."""

import logging

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Invertd, Orientationd, Spacingd, SpatialPadd

from crossmoda.registration import LocaliseEarsd, Registration, box_in_scan, localise
from crossmoda.registration.localise import COCHLEAE, EARS_BOX, NOTE_KEY, grown_to_windows
from crossmoda.registration.search import rigid

from .conftest import make_scan

BOX = ((-9.0, -14.0, -10.0), (9.0, 2.0, 6.0))


def affine_of(codes="RAS", degrees=(0, 0, 0), spacing=(0.8, 0.9, 1.7), shape=(60, 50, 30)):
    """Grid centred on the origin: axes in any order and direction, tilted."""
    axes = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        for row, (negative, positive) in enumerate(("LR", "PA", "IS")):
            axes[row, axis] = (code == positive) - float(code == negative)
    affine = np.eye(4)
    affine[:3, :3] = rigid(np.array([[*degrees, 0, 0, 0.0]]), np.zeros(3))[0, :3, :3] @ axes @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def item(affine, shape, channels=1, seed=0):
    values = torch.from_numpy(np.random.RandomState(seed).rand(channels, *shape)).float()
    return MetaTensor(values, affine=torch.from_numpy(affine))


@pytest.fixture
def matrix(monkeypatch):
    """The registration replaced: it finds this map from scan to MNI."""
    found = rigid(np.array([[4.0, -6, 5, 2, -3, 1]]), np.zeros(3))[0]

    def known(values, affine, *args, **settings):
        assert settings == {"backend": "search"}
        return Registration(found.tolist(), "rigid", "mi", "search", 0.1, 0.5, 0.2, 9.0, 0.6)

    monkeypatch.setattr(localise, "register", known)
    monkeypatch.setattr(localise, "COCHLEAE", ((-5.0, -3.0, 0.0), (5.0, -3.0, 0.0)))
    return found


@pytest.fixture
def failing(monkeypatch):
    record = Registration.unused("rigid", "mi", "search", failure="little overlap")
    monkeypatch.setattr(localise, "register", lambda *args, **settings: record)


def test_box_on_a_straight_grid_by_hand():
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [-10, 5, 0]
    # x: (-3 + 10) / 2 = 3.5 to (4 + 10) / 2 = 7; y: 2 to 6; z: 0.33 to 2.67; voxels that only touch the box count.
    assert box_in_scan((20, 20, 20), affine, ((-3, 7, 1), (4, 11, 8))) == (slice(3, 8), slice(2, 7), slice(0, 4))
    assert box_in_scan((6, 20, 2), affine, ((-3, 7, 1), (4, 11, 8))) == (slice(3, 6), slice(2, 7), slice(0, 2))


def test_windows_nearest_to_a_region_by_hand():
    # Windows of 8 on 20 voxels start at 0, 4, 8, 12, their centres are 3.5, 7.5, 11.5, 15.5. Of 4 on 15, the last one
    # moved into the scan: 0, 2, ..., 10, 11. One window holds all of a scan that is smaller.
    region = (slice(6, 11), slice(14, 15), slice(2, 3))
    assert grown_to_windows(region, (20, 15, 5), (8, 4, 9), 0.5) == (slice(4, 16), slice(11, 15), slice(0, 5))
    assert grown_to_windows((slice(0, 0),) * 3, (20, 15, 5), (8, 4, 9), 0.5) == (slice(0, 0),) * 3


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(5))
def test_windows_of_the_part_are_windows_of_the_whole(seed, overlap):
    """By what MONAI's inferer gives the network: the voxels' own numbers."""
    R = np.random.RandomState(seed)
    shape, window = R.randint(8, 30, 3), R.randint(1, 12, 3)
    start = R.randint(0, shape)
    region = tuple(slice(int(a), int(R.randint(a, n)) + 1) for a, n in zip(start, shape, strict=True))
    windows = grown_to_windows(region, shape, window, overlap)
    voxels = torch.arange(float(shape.prod())).reshape(1, 1, *shape)

    def first_voxels(part):
        found = set()
        SlidingWindowInferer(window.tolist(), overlap=overlap)(part, lambda x: found.add(int(x[..., 0, 0, 0])) or x)
        return found

    assert first_voxels(voxels[(..., *windows)]) <= first_voxels(voxels)
    assert all(w.start <= r.start and r.stop <= w.stop for r, w in zip(region, windows, strict=True))


def test_labels_in_the_region_are_those_of_the_whole_scan(matrix):
    """With the importance of windows as in the bundles; the network sees its window's borders."""
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 5, padding=2)
    network = torch.nn.Sequential(*layers)
    shape, window = (64, 60, 40), (16, 16, 8)
    data = {"image": item(affine_of(shape=shape), shape)}
    inferer = SlidingWindowInferer(window, overlap=0.5, mode="gaussian")
    transform = LocaliseEarsd("image", BOX, window_size=window, overlap=0.5)
    image = transform(data)["image"]
    with torch.no_grad():
        whole = inferer(data["image"][None], network)[0].softmax(0)
        part = inferer(image[None], network)[0].softmax(0)
    prediction = MetaTensor(part.as_tensor(), meta=image.meta, applied_operations=image.applied_operations)
    back = transform.inverse({"image": prediction})["image"].as_tensor()
    region = box_in_scan(shape, matrix @ affine_of(shape=shape), BOX)
    assert image.shape[1:] != tuple(s.stop - s.start for s in region)
    inside = (slice(None), *region)
    assert (back[inside] - whole.as_tensor()[inside]).abs().max() < 0.02
    middle = tuple(slice(s.start + w // 4, s.stop - w // 4) for s, w in zip(region, window, strict=True))
    assert (back[(slice(None), *middle)] - whole.as_tensor()[(slice(None), *middle)]).abs().max() < 1e-3
    outside = torch.ones(shape, dtype=torch.bool)
    outside[region] = False
    assert (back[0, outside] == 1).all()
    assert (back[1:, outside] == 0).all()


def test_box_beside_the_scan_is_empty():
    assert box_in_scan((20, 20, 20), np.eye(4), ((30, 0, 0), (40, 5, 5)))[0] == slice(0, 0)
    assert box_in_scan((20, 20, 20), np.eye(4), ((-30, 0, 0), (-10, 5, 5)))[0] == slice(0, 0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA"])
@pytest.mark.parametrize("seed", range(4))
def test_box_is_the_smallest_crop_with_every_point_of_it(codes, seed):
    """Against points strewn over the box, voxel by voxel."""
    R = np.random.RandomState(seed)
    shape = tuple(R.randint(20, 60, 3))
    affine = affine_of(codes, R.uniform(-25, 25, 3), R.uniform(0.4, 3, 3), shape)
    low = R.uniform(-20, 0, 3)
    high = low + R.uniform(3, 20, 3)
    region = box_in_scan(shape, affine, (low, high))
    points = np.stack(np.meshgrid(*np.linspace(low, high, 41).T, indexing="ij"), -1).reshape(-1, 3)
    voxels = np.rint((np.linalg.inv(affine) @ np.c_[points, np.ones(len(points))].T)[:3].T).astype(int)
    expected = [(max(a, 0), min(b, n - 1) + 1) for a, b, n in zip(voxels.min(0), voxels.max(0), shape, strict=True)]
    assert [(s.start, s.stop) for s in region] == expected


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -7, 9)], ids=str)
def test_crop_keeps_its_place_and_comes_back_exactly(codes, degrees, matrix):
    shape = (60, 50, 30) if codes != "PIR" else (50, 30, 60)
    affine = affine_of(codes, degrees, shape=shape)
    data = {"image": item(affine, shape)}
    transform = LocaliseEarsd("image", box=BOX)
    out = transform(data)["image"]
    region = box_in_scan(shape, matrix @ affine, BOX)
    assert torch.equal(out.as_tensor(), data["image"].as_tensor()[(slice(None), *region)])
    np.testing.assert_allclose(out.affine[:3, 3], (affine @ [*(s.start for s in region), 1])[:3], atol=1e-9)
    assert out.numel() < 0.5 * data["image"].numel()
    assert out.meta[NOTE_KEY] == "voxels " + ", ".join(f"{s.start}:{s.stop}" for s in region)
    back = transform.inverse({"image": out})["image"]
    expected = torch.zeros_like(data["image"].as_tensor())
    expected[(slice(None), *region)] = data["image"].as_tensor()[(slice(None), *region)]
    assert torch.equal(back.as_tensor(), expected)
    np.testing.assert_allclose(back.affine, affine, atol=1e-9)
    assert back.applied_operations == []


def test_partial_field_of_view_is_cut_at_the_scans_end(matrix):
    shape = (60, 50, 6)
    affine = affine_of(shape=shape)
    out = LocaliseEarsd("image", box=BOX)({"image": item(affine, shape)})["image"]
    assert out.shape[3] == 6
    assert out.shape[1] < 60


def test_probabilities_outside_are_background(matrix):
    shape = (60, 50, 30)
    chain = Compose([Orientationd("image", "RAS", labels=None), LocaliseEarsd("image", BOX), SpatialPadd("image", 40)])
    image = chain({"image": item(affine_of("LPS", shape=shape), shape)})["image"]
    prediction = MetaTensor(torch.rand(3, *image.shape[1:]).softmax(0))
    out = Invertd("pred", chain, orig_keys="image", nearest_interp=False)({"image": image, "pred": prediction})["pred"]
    region = box_in_scan(shape, matrix @ affine_of("RAS", shape=shape), BOX)
    inside = np.zeros(shape, bool)
    inside[region] = True
    inside = torch.from_numpy(inside[::-1, ::-1].copy())
    assert out.shape == (3, *shape)
    assert (out.as_tensor()[0][~inside] == 1).all()
    assert (out.as_tensor()[1:, ~inside] == 0).all()
    assert (out.as_tensor().sum(0) - 1).abs().max() < 1e-6  # inside, too, and where the padding of 40 was cut off
    assert (out.argmax(0)[~inside] == 0).all()


def test_a_label_map_comes_back_with_zeros_and_through_a_loader(matrix):
    shape = (60, 50, 30)
    chain = Compose(
        [
            Spacingd(["image", "label"], (1.0, 1.0, 1.7), mode=["bilinear", "nearest"]),
            LocaliseEarsd(["image", "label"], BOX, window_size=(48, 4, 4)),
        ]
    )
    data = {"image": item(affine_of(shape=shape), shape), "label": (item(affine_of(shape=shape), shape) > 0).float()}
    batch = next(iter(DataLoader([chain(data)], batch_size=1, num_workers=0)))
    one = decollate_batch(batch)[0]
    assert one["image"].shape[1] == 48  # one window on the 48 voxels of x
    back = Invertd("label", chain, nearest_interp=True)({"label": one["label"]})["label"]
    assert back.shape == (1, *shape)
    assert 0 < back.sum() < back.numel()
    assert set(np.unique(back)) == {0, 1}


@pytest.mark.usefixtures("failing")
def test_a_failed_registration_leaves_the_scan_whole_with_one_warning(caplog):
    data = {"image": item(affine_of(), (60, 50, 30))}
    transform = LocaliseEarsd("image")
    with caplog.at_level(logging.WARNING):
        out = transform(data)["image"]
    assert torch.equal(out.as_tensor(), data["image"].as_tensor())
    assert out.meta[NOTE_KEY] == "whole scan: little overlap"
    assert [record.getMessage().count("little overlap") for record in caplog.records] == [1]
    prediction = MetaTensor(torch.rand(3, 60, 50, 30), meta=out.meta, applied_operations=out.applied_operations)
    assert torch.equal(transform.inverse({"image": prediction})["image"].as_tensor(), prediction.as_tensor())


@pytest.mark.usefixtures("matrix")
def test_an_ear_outside_the_scan_leaves_it_whole(monkeypatch, caplog):
    monkeypatch.setattr(localise, "COCHLEAE", ((-5.0, -3.0, 0.0), (40.0, -3.0, 0.0)))
    out = LocaliseEarsd("image", BOX)({"image": item(affine_of(), (60, 50, 30))})["image"]
    assert out.shape == (1, 60, 50, 30)
    assert "both cochleae" in out.meta[NOTE_KEY]
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("matrix")
def test_items_of_other_shapes_and_boxes_without_volume_are_refused():
    data = {"image": item(affine_of(), (60, 50, 30)), "label": item(affine_of(), (60, 50, 31))}
    with pytest.raises(ValueError, match="label"):
        LocaliseEarsd(["image", "label"], BOX)(data)
    with pytest.raises(ValueError, match="corner"):
        LocaliseEarsd("image", ((0, 0, 0), (1, 0, 1)))
    assert LocaliseEarsd("image", allow_missing_keys=True)({"other": 1}) == {"other": 1}


@pytest.mark.parametrize("slab", [True, False], ids=["slab", "head"])
def test_search_alone_finds_both_ears_of_a_turned_head(slab):
    """The real registration; the truth is the scan's own pose."""
    scan = make_scan([6.0, -4, 5, 8, -10, 6], slab=slab)
    image = MetaTensor(torch.from_numpy(scan.values[None]), affine=torch.from_numpy(scan.affine))
    out = LocaliseEarsd("image")({"image": image})["image"]
    assert out.meta[NOTE_KEY].startswith("voxels")
    assert out.numel() < 0.45 * image.numel()
    low, high = np.array(EARS_BOX)
    # Cochleae, and what lies 12 mm around them: all in the crop, as far as the scan shows it.
    around = np.array([(*np.add(place, step), 1.0) for place in COCHLEAE for step in 12 * np.eye(3)]).T
    assert (around[:3].min(1) > low).all()
    assert (around[:3].max(1) < high).all()
    voxels = (np.linalg.inv(scan.matrix @ out.affine.numpy()) @ around)[:3]
    assert voxels.min() > -0.5
    assert (voxels.max(1) < np.array(out.shape[1:]) - 0.5).all()


def test_a_search_that_went_astray_is_noticed():
    """Here it ends 48 mm off."""
    scan = make_scan([9.0, -6, 8, 10, -15, 12], slab=True)
    image = MetaTensor(torch.from_numpy(scan.values[None]), affine=torch.from_numpy(scan.affine))
    out = LocaliseEarsd("image")({"image": image})["image"]
    assert out.shape == image.shape
    assert out.meta[NOTE_KEY].startswith("whole scan: no clear optimum")


@pytest.mark.parametrize("noise", [False, True], ids=["blank", "noise"])
def test_what_is_no_head_stays_whole(noise):
    values = (
        torch.rand(1, 40, 40, 20, generator=torch.Generator().manual_seed(0)) if noise else torch.zeros(1, 40, 40, 20)
    )
    out = LocaliseEarsd("image")({"image": MetaTensor(values, affine=torch.diag(torch.tensor([3.0, 3, 4, 1])))})[
        "image"
    ]
    assert out.shape == values.shape
    assert out.meta[NOTE_KEY].startswith("whole scan: ")
