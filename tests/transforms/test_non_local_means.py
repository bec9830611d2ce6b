import numpy as np
import pytest
import torch
from dipy.denoise.nlmeans import nlmeans
from dipy.denoise.noise_estimate import estimate_sigma
from monai.data import MetaTensor

from crossmoda.errors import InputError
from crossmoda.transforms import NonLocalMeansd
from crossmoda.transforms.non_local_means import noise_sigma

AFFINE = np.diag([-0.4, -0.4, 1.5, 1.0])
SIGMA = 20.0


def head(shape=(64, 64, 12)):
    """A bright ball with a dark core in air, and every other slice brighter, as between thick slices."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(x**2 + y**2)
    signal = np.where(radius < 0.7, 400.0, 0) - np.where(radius < 0.2, 250.0, 0)
    return signal * (1 + 0.3 * (np.arange(shape[2]) % 2))


def rician(signal, sigma=SIGMA, seed=0):
    random = np.random.RandomState(seed)
    real, imaginary = random.normal(0, sigma, size=(2, *signal.shape))
    return np.hypot(signal + real, imaginary).astype(np.float32)


def scan(volume):
    image = MetaTensor(volume[None], affine=AFFINE, meta={"filename_or_obj": "case_ceT1.nii.gz"})
    image.applied_operations = [{"class": "Orientation"}]
    return image


@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_noise_of_a_head_in_air(sigma):
    x = rician(head(), sigma)
    assert noise_sigma(x) == pytest.approx(sigma, rel=0.05)
    assert estimate_sigma(x)[0] > 1.5 * sigma  # dipy's takes the steps between slices for noise


def test_noise_where_air_is_zero_or_outside_the_field_of_view():
    flat = head() * 0 + 400
    x = rician(flat)
    assert noise_sigma(x) == pytest.approx(SIGMA, rel=0.1)
    x[:30] = 0
    assert noise_sigma(x) == pytest.approx(SIGMA, rel=0.1)


def test_no_noise():
    assert noise_sigma(np.where(head() > 0, 100.0, 0).astype(np.float32)) == 0


def test_comes_nearer_to_the_signal_and_keeps_edges():
    signal = head()
    x = rician(signal)
    y = NonLocalMeansd("image", block_radius=2)({"image": scan(x)})["image"].numpy()[0]
    before, after = (np.sqrt(np.mean((v - signal) ** 2)) for v in (x, y))
    assert after < 0.6 * before
    # The Rician correction takes off the air's mean of sigma * sqrt(pi / 2) = 25.
    air = signal == 0
    assert x[air].mean() > 24
    assert y[air].mean() < 12
    # Across the edge of ball and core the step stays.
    edge = np.abs(np.diff(signal, axis=0)) > 0
    assert np.abs(np.diff(y, axis=0))[edge].mean() > 0.95 * np.abs(np.diff(signal, axis=0))[edge].mean()


def test_parameters_reach_dipy():
    x = rician(head((20, 20, 6)))
    y = NonLocalMeansd("image", patch_radius=2, block_radius=3, sigma=15, rician=False)({"image": scan(x)})["image"]
    expected = nlmeans(x, 15.0, patch_radius=2, block_radius=3, rician=False, num_threads=1, method="classic")
    assert np.array_equal(y.numpy()[0], expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
def test_types_metadata_and_channels(dtype):
    x = scan(rician(head((24, 20, 8))).round().astype(dtype))
    two = MetaTensor(torch.cat([x, 2 * x.as_tensor()]) if dtype != np.uint16 else x, meta=x.meta)
    two.applied_operations = x.applied_operations
    y = NonLocalMeansd("image")({"image": two})["image"]
    assert y.dtype == torch.float32
    assert y.shape == two.shape
    assert torch.equal(y.affine, x.affine)
    assert y.applied_operations == [{"class": "Orientation"}]
    assert y.meta["filename_or_obj"] == "case_ceT1.nii.gz"
    assert torch.isfinite(y).all()
    if len(y) == 2:  # the noise is estimated for each
        assert torch.allclose(y[1].as_tensor(), 2 * y[0].as_tensor(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(24, 20, 1), (24, 20, 2), (64, 15, 11)])
def test_few_slices_and_odd_shapes(shape):
    x = rician(head(shape))
    y = NonLocalMeansd("image")({"image": scan(x)})["image"].numpy()[0]
    assert np.isfinite(y).all()
    assert y.std() > 0


def test_images_without_noise_or_content_are_refused():
    clean = scan(np.where(head() > 0, 100, 0).astype(np.int16))
    with pytest.raises(InputError, match=r"case_ceT1.nii.gz: no noise found"):
        NonLocalMeansd("image")({"image": clean})
    NonLocalMeansd("image", sigma=5)({"image": clean})
    with pytest.raises(InputError, match=r"case_ceT1.nii.gz: every voxel is 0"):
        NonLocalMeansd("image")({"image": clean * 0})


def test_missing_keys():
    assert NonLocalMeansd("image", allow_missing_keys=True)({"a": 1}) == {"a": 1}
