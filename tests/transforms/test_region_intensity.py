import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.transforms import RandRegionIntensityd

SHAPE = (1, 14, 12, 8)


def item(shape=SHAPE):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    label = torch.zeros(shape, dtype=torch.uint8)
    label[:, 4:8, 4:7, 2:5] = 1
    label[:, 8, 4:7, 2:5] = 2
    label[:, 11, 10, 6] = 3
    return {"image": MetaTensor(image), "label": label}


def by_numpy(image, mean, contrast, brightness, gamma, offset=0.0):
    """Chen's code: contrast and brightness, then gamma with mean and standard deviation kept."""
    x = ((image - mean) * contrast + mean) * brightness + offset
    low, size = x.min(), x.max() - x.min()
    y = ((x - low) / size) ** gamma * size + low
    return (y - y.mean()) / y.std() * x.std() + x.mean()


def test_image_follows_the_papers_code():
    vary = RandRegionIntensityd("image", (0.6, 1.5), (0.6, 1.5), (0.6, 1.5), offset_std=0.1).set_random_state(1)
    image = item()["image"].numpy().astype(np.float64)
    for _ in range(5):
        out = vary(item())
        assert min(vary.contrast, vary.brightness, vary.gamma) >= 0.6
        assert max(vary.contrast, vary.brightness, vary.gamma) <= 1.5
        expected = by_numpy(image, image.mean(), vary.contrast, vary.brightness, vary.gamma, vary.offset)
        assert np.allclose(out["image"].numpy(), expected, atol=1e-4)
        assert torch.equal(out["label"], item()["label"])


def test_gamma_keeps_mean_and_deviation():
    image = item()["image"]
    out = RandRegionIntensityd("image", gamma=(0.5, 0.5))(item())["image"]
    assert not torch.allclose(out, image, atol=0.01)
    assert float(out.mean()) == pytest.approx(float(image.mean()), abs=1e-5)
    assert float(out.std()) == pytest.approx(float(image.std()), abs=1e-5)


@pytest.mark.parametrize("labels", [(1,), (1, 2)], ids=str)
def test_structure_changes_alone_and_by_its_own_mean(labels):
    vary = RandRegionIntensityd(
        "image", (0.8, 1.2), (0.8, 1.2), (0.8, 1.2), label_key="label", labels=labels, margin=2
    ).set_random_state(2)
    before, out = item(), vary(item())
    image = before["image"].numpy().astype(np.float64)
    inside = np.isin(before["label"].numpy(), labels)
    last = 10 if labels == (1,) else 11  # two voxels beyond the structure
    box = np.s_[:, 2:last, 2:9, 0:7]
    expected = image.copy()
    changed = by_numpy(image[box], image[inside].mean(), vary.contrast, vary.brightness, vary.gamma)
    expected[box] = np.where(inside[box], changed, image[box])
    assert np.allclose(out["image"].numpy(), expected, atol=1e-4)
    assert not np.allclose(out["image"].numpy()[inside], image[inside], atol=1e-3)
    assert np.array_equal(out["image"].numpy()[~inside], before["image"].numpy()[~inside])
    assert torch.equal(out["label"], before["label"])


@pytest.mark.parametrize("labels", [None, (1,), (3,)], ids=str)
@pytest.mark.parametrize("off", [{}, {"prob": 0.0, "contrast": (2, 2), "brightness": (2, 2)}], ids=str)
def test_zero_strength_does_nothing(labels, off):
    region = {} if labels is None else {"label_key": "label", "labels": labels}
    out, original = RandRegionIntensityd("image", **region, **off)(item()), item()
    assert torch.allclose(out["image"], original["image"], atol=1e-5)


def test_absent_structure_single_voxels_and_flat_images_stay_finite():
    original = item()
    absent = RandRegionIntensityd("image", (2, 2), label_key="label", labels=(9,))(item())
    assert torch.equal(absent["image"], original["image"])
    single = RandRegionIntensityd("image", brightness=(0.5, 0.5), label_key="label", labels=(3,), margin=0)(item())
    assert single["image"][0, 11, 10, 6] == original["image"][0, 11, 10, 6] * 0.5
    flat = RandRegionIntensityd("image", (2, 2), (0.5, 0.5), (2, 2))({"image": torch.full(SHAPE, -1.0)})
    assert torch.allclose(flat["image"], torch.full(SHAPE, -0.5))


def test_given_image_stays():
    given = item()
    RandRegionIntensityd("image", brightness=(0.5, 0.5))(given)
    RandRegionIntensityd("image", brightness=(0.5, 0.5), label_key="label", labels=(1,))(given)
    assert torch.equal(given["image"], item()["image"])


def test_wrong_ranges_are_refused():
    for wrong in ({"contrast": (1.5, 0.5)}, {"gamma": (0.0, 1.0)}, {"brightness": (1.0,)}):
        with pytest.raises(ValueError, match="must be a pair"):
            RandRegionIntensityd("image", **wrong)
