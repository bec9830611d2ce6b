"""Registration as an invertible transform: what moves, what comes back, what is recorded and reused."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, SpatialPadd
from scipy import ndimage

from crossmoda.errors import InputError
from crossmoda.registration import Registerd, Registration, ResampleToGridd, transform
from crossmoda.registration.search import rigid

AFFINE = np.array([[-1.0, 0.1, 0, 20], [0.1, 1.0, 0, -18], [0, 0, 2.0, -20], [0, 0, 0, 1]])
MATRIX = rigid(np.array([[5.0, -7, 9, 3, -4, 6]]), np.zeros(3))[0]
GRID = np.diag([0.9, 1.1, 1.7, 1.0])
GRID[:3, 3] = [-25, -28, -26]
SIZE = (56, 52, 31)


@pytest.fixture
def calls(monkeypatch) -> list:
    """Registration replaced by a known matrix; the list counts its calls."""
    found = []

    def known(values, affine, *args, **settings):
        found.append(settings)
        return Registration(MATRIX.tolist(), "rigid", "mi", "elastix", 0.1, 0.5, 0.2, 12.0, 0.6)

    monkeypatch.setattr(transform, "register", known)
    return found


@pytest.fixture
def data() -> dict:
    """An image and its label: balls of radius 7 and 3 mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 40, 22)], indexing="ij"), -1)
    world = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    label = (np.linalg.norm(world - [2, 4, 0], axis=-1) < 7) + 2.0 * (np.linalg.norm(world - [-8, -4, 3], axis=-1) < 3)
    image = ndimage.gaussian_filter(label * 100, 1) + 5
    return {
        key: MetaTensor(torch.from_numpy(v[None]).float(), affine=torch.from_numpy(AFFINE))
        for key, v in (("image", image), ("label", label))
    }


def chain(**settings) -> Compose:
    keys = ["image", "label", "parcellation"]
    return Compose(
        [
            Registerd(keys, allow_missing_keys=True, **settings),
            ResampleToGridd(keys, GRID, SIZE, mode=["bilinear", "nearest", "nearest"], allow_missing_keys=True),
        ]
    )


def test_all_items_move_and_voxels_stay(calls, data):
    moved = Registerd(["image", "label"])(data)
    for key in ("image", "label"):
        np.testing.assert_allclose(moved[key].affine, MATRIX @ AFFINE, atol=1e-12)
        assert torch.equal(moved[key].as_tensor(), data[key].as_tensor())
        np.testing.assert_array_equal(data[key].affine, AFFINE)  # the input is not changed
    assert len(calls) == 1
    assert moved["registration"]["matrix"] == MATRIX.tolist()
    assert moved["registration"]["failure"] == ""


def test_resampled_grid_is_as_asked_and_in_place(calls, data):
    out = chain()(data)
    assert out["image"].shape == (1, *SIZE)
    np.testing.assert_allclose(out["image"].affine, GRID, atol=1e-12)
    centre = MATRIX @ [2, 4, 0, 1]  # where the ball's centre must have come
    weights = out["label"][0].numpy() == 1
    found = np.argwhere(weights).mean(0) @ GRID[:3, :3] + GRID[:3, 3]
    np.testing.assert_allclose(found, centre[:3], atol=0.3)
    look = np.linalg.inv(MATRIX @ AFFINE) @ GRID
    expected = ndimage.affine_transform(
        data["image"][0].numpy(), look[:3, :3], look[:3, 3], SIZE, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(out["image"][0].numpy(), expected, atol=0.02)


def test_inverse_restores_grid_and_affine_exactly(calls, data):
    transforms = chain()
    back = transforms.inverse(transforms(data))
    for key in ("image", "label"):
        assert back[key].shape == data[key].shape
        assert torch.equal(back[key].affine, data[key].affine)
        assert back[key].applied_operations == []
    a, b = back["label"].numpy() > 0, data["label"].numpy() > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9  # nearest neighbours twice, balls of 3 and 7 mm


def test_invertd_brings_a_prediction_back(calls, data):
    transforms = chain()
    out = transforms({"image": data["image"]})
    item = {"image": out["image"], "pred": (out["image"] > 55).float()}
    back = Invertd("pred", transforms, orig_keys="image", nearest_interp=True)(item)
    assert torch.equal(back["pred"].affine, data["image"].affine)
    a, b = back["pred"].numpy() > 0, data["image"].numpy() > 55
    assert a.shape == b.shape
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9


def test_batches_and_the_record_survive_a_loader(calls, data):
    transforms = Compose([chain(), SpatialPadd(["image", "label"], (64, 64, 32))])
    batch = next(iter(DataLoader([transforms(data)], batch_size=1, num_workers=0)))
    item = decollate_batch(batch)[0]
    back = Invertd("image", transforms)({"image": item["image"]})["image"]
    assert torch.equal(back.affine, data["image"].affine)
    assert batch["registration"]["failure"] == [""]


def test_disabled_does_nothing_and_says_so(calls, data):
    out = Registerd("image", enabled=False)(data)
    assert calls == []
    np.testing.assert_array_equal(out["image"].affine, AFFINE)
    assert out["registration"]["enabled"] is False


def test_failure_leaves_the_affine_and_is_recorded(data, monkeypatch):
    failed = Registration.unused("rigid", "mi", "elastix", failure="little overlap")
    monkeypatch.setattr(transform, "register", lambda *args, **settings: failed)
    out = Registerd(["image", "label"])(data)
    np.testing.assert_array_equal(out["label"].affine, AFFINE)
    assert out["registration"]["failure"] == "little overlap"


@pytest.mark.parametrize("name", ["folder", "one.json"])
def test_cache_is_reused_for_the_same_input_and_settings_only(calls, data, tmp_path, name):
    path = tmp_path / "deep" / name
    first = Registerd("image", cache=path)(data)
    again = Registerd("image", cache=path)(data)
    assert len(calls) == 1
    assert again["registration"] == first["registration"]
    np.testing.assert_array_equal(again["image"].affine, first["image"].affine)
    Registerd("image", cache=path, seed=3)(data)
    assert len(calls) == 2
    other = {"image": data["image"].clone()}
    other["image"][0, 3, 3, 3] += 1
    Registerd("image", cache=path)(other)
    assert len(calls) == 3
    shifted = {"image": MetaTensor(data["image"].as_tensor(), affine=torch.from_numpy(AFFINE + np.eye(4, k=3)))}
    Registerd("image", cache=path)(shifted)
    assert len(calls) == 4


@pytest.mark.parametrize("content", ["", "{", '{"input": 3}', "[]", '{"input": "x", "registration": {"a": 1}}'])
def test_a_damaged_cache_is_replaced(calls, data, tmp_path, content):
    path = tmp_path / "one.json"
    path.write_text(content)
    Registerd("image", cache=path)(data)
    assert len(calls) == 1
    assert json.loads(path.read_text())["registration"]["matrix"] == MATRIX.tolist()


def test_atlas_from_a_file_is_part_of_the_cache_key(calls, data, tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), value, np.float32), AFFINE), tmp_path / f"{name}.nii.gz")
        Registerd("image", fixed=tmp_path / f"{name}.nii.gz", kind="affine", cache=tmp_path / "cache")(data)
    assert len(calls) == 2
    assert calls[0]["kind"] == "affine"


def test_an_atlas_that_is_none_is_named(calls, data, tmp_path):
    truncated, flat = tmp_path / "truncated.nii.gz", tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.random.RandomState(0).rand(20, 20, 20).astype(np.float32), AFFINE), truncated)
    truncated.write_bytes(truncated.read_bytes()[:9000])
    nib.save(nib.Nifti1Image(np.zeros((4, 4), np.float32), AFFINE), flat)
    for path in (tmp_path / "missing.nii.gz", truncated, flat):
        with pytest.raises(InputError, match=path.name):
            Registerd("image", fixed=path)(data)


def test_mni_shortcut_is_the_grid_of_li_2021():
    resample = ResampleToGridd("image")
    assert resample.spatial_size == (512, 512, 128)
    np.testing.assert_allclose(np.diag(resample.affine)[:3], [0.377, 0.447, 1.508])


def test_grids_that_are_none_are_refused():
    with pytest.raises(ValueError, match="talairach"):
        ResampleToGridd("image", "talairach")
    with pytest.raises(ValueError, match="spatial_size"):
        ResampleToGridd("image", np.eye(4))
