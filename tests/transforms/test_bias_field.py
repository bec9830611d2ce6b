import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from crossmoda.errors import InputError
from crossmoda.transforms import N4BiasFieldCorrectiond

SPACING = (1.0, 1.0, 3.0)
ITERATIONS = (20, 20, 20)


def head(shape=(56, 60, 16)):
    """Three tissues in air, and which voxels hold which: 0 air, 1 to 3 tissue."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    tissue = (x**2 + y**2 < 0.8).astype(int)
    tissue[(x + 0.2) ** 2 + y**2 < 0.4] = 2
    tissue[(x - 0.3) ** 2 + (y - 0.2) ** 2 + 0.05 * z**2 < 0.1] = 3
    return np.array([0.0, 300, 600, 900])[tissue], tissue


def log_field(shape):
    """Smooth, with factors of about 0.6 to 1.6."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    return 0.4 * x - 0.25 * y * y + 0.2 * x * y + 0.15 * z


def scan(volume, spacing=SPACING):
    image = MetaTensor(volume[None], affine=np.diag([*spacing, 1]), meta={"filename_or_obj": "case_ceT1.nii.gz"})
    image.applied_operations = [{"class": "Orientation"}]
    return image


def variation(volume, tissue):
    """Coefficient of variation within each tissue."""
    return np.array([volume[tissue == t].std() / volume[tissue == t].mean() for t in (1, 2, 3)])


@pytest.mark.parametrize(("noise", "max_points"), [(0, 3000), (15, 3000), (15, 10**6)])
def test_recovers_a_known_field(noise, max_points):
    signal, tissue = head()
    bias = log_field(signal.shape)
    volume = np.abs(signal * np.exp(bias) + np.random.RandomState(0).normal(0, noise, signal.shape))
    n4 = N4BiasFieldCorrectiond("image", shrink_factor=2, iterations=ITERATIONS, max_points=max_points)
    corrected = n4({"image": scan(volume)})["image"].numpy()[0]
    found = np.log(n4.field(volume.astype(np.float32), SPACING))
    assert np.allclose(corrected, volume / np.exp(found), rtol=1e-4)
    inside = tissue > 0
    assert np.corrcoef(found[inside], bias[inside])[0, 1] > 0.95
    if not noise:
        assert (variation(corrected, tissue) < 0.35 * variation(volume, tissue)).all()
    # About the same range is kept, and the field is smooth and finite in the air as well.
    assert corrected[inside].mean() == pytest.approx(volume[inside].mean(), rel=0.3)
    assert np.isfinite(corrected).all()
    assert corrected.min() >= 0
    assert np.abs(found).max() < 1.5
    assert np.abs(found - ndimage.uniform_filter(found, 3))[1:-1, 1:-1, 1:-1].max() < 0.02


def test_leaves_an_even_image_even():
    signal, tissue = head()
    y = N4BiasFieldCorrectiond("image", iterations=ITERATIONS)({"image": scan(signal)})["image"].numpy()[0]
    assert (variation(y, tissue) < 0.02).all()
    assert (y[tissue == 0] == 0).all()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((48, 48, 11), (0.8, 0.8, 3.5)),
        ((60, 15, 11), (1, 1, 1)),
        ((40, 40, 2), (1, 1, 5)),
        ((48, 48, 20), (0.4, 0.4, 3)),
    ],
)
def test_few_slices_and_anisotropy(shape, spacing):
    signal, tissue = head(shape)
    volume = signal * np.exp(log_field(shape))
    y = N4BiasFieldCorrectiond("image", iterations=(20, 20))({"image": scan(volume, spacing)})["image"].numpy()[0]
    assert y.shape == shape
    assert np.isfinite(y).all()
    assert y.min() >= 0
    assert variation(y, tissue).mean() < 0.7 * variation(volume, tissue).mean()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_types_metadata_and_channels(dtype):
    signal, _ = head((32, 32, 8))
    x = scan((signal * 0.2).astype(dtype))
    y = N4BiasFieldCorrectiond("image", iterations=(5,))({"image": x})["image"]
    assert y.dtype == torch.float32
    assert torch.equal(y.affine, x.affine)
    assert y.applied_operations == [{"class": "Orientation"}]
    assert y.meta["filename_or_obj"] == "case_ceT1.nii.gz"
    assert x.numpy().dtype == dtype
    twice = N4BiasFieldCorrectiond("image", iterations=(5,))({"image": torch.cat([x.as_tensor()] * 2)})["image"]
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.full((16, 16, 4), 5.0), "every voxel is 5"),
        (-head((16, 16, 4))[0], "needs positive values"),
        (head((16, 16, 1))[0], "two voxels along each axis"),
    ],
)
def test_images_without_a_field_are_refused(volume, message):
    with pytest.raises(InputError, match=f"case_ceT1.nii.gz: .*{message}"):
        N4BiasFieldCorrectiond("image")({"image": scan(volume)})


def test_missing_keys():
    assert N4BiasFieldCorrectiond("image", allow_missing_keys=True)({"a": 1}) == {"a": 1}
