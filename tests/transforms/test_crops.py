import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, Resized, Spacingd

from crossmoda.errors import InputError
from crossmoda.transforms import (
    CentreShareCropd,
    FixedPatchCropd,
    PadToSquared,
    PercentileCentreCropd,
    fixed_patch_affine,
)
from crossmoda.transforms.crops import filled_shares

AFFINE = np.array([[-0.5, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 1.5, 30], [0, 0, 0, 1.0]])


def item(shape, dtype=np.int16):
    """An image whose values tell the voxel index apart, and a label with its structures in the middle."""
    image = np.arange(1, np.prod(shape) + 1).reshape(1, *shape) % 30000 + 1
    image[0, 0, 0, 0] = 0  # the minimum lies outside any rule's box, as air does
    label = np.zeros((1, *shape), dtype=np.uint8)
    label[(0, *(slice(n // 3, n - n // 3) for n in shape))] = 2
    meta = {"filename_or_obj": "case_ceT1.nii.gz"}
    return {
        "image": MetaTensor(image.astype(dtype), affine=AFFINE, meta=dict(meta)),
        "label": MetaTensor(label, affine=AFFINE, meta=dict(meta)),
    }


def flat(shape, filled=None):
    """Value 1 in a box of rows and columns, 0 elsewhere, without the memory of distinct voxels."""
    image = torch.zeros(1, *shape)
    x, y = filled or ((0, shape[0]), (0, shape[1]))
    image[0, x[0] : x[1], y[0] : y[1]] = 1
    image[0, 0, 0, 0] = 0
    return image


def window(transform, image):
    start, end = transform.region(image)
    return [(int(a), int(b)) for a, b in zip(start, end, strict=True)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 512, 4), [(96, 416), (96, 416)]),  # 3 * 512 / 16 = 96, 13 * 512 / 16 = 416
        ((448, 448, 4), [(84, 364), (84, 364)]),
        ((350, 350, 4), [(0, 350), (0, 350)]),
        ((351, 351, 4), [(65, 285), (65, 285)]),  # int(65.8), int(285.2)
        ((232, 30, 11), [(0, 232), (0, 30)]),
        ((400, 320, 4), [(75, 325), (60, 260)]),  # y/x 0.8
        ((400, 240, 4), [(75, 325), (0, 240)]),  # y/x 0.6
        ((240, 400, 4), [(0, 240), (75, 325)]),
    ],
)
def test_centre_share_windows(shape, expected):
    assert window(CentreShareCropd("image"), flat(shape)) == [*expected, (0, shape[2])]


def test_incomplete_field_of_view_is_left_whole():
    shape = (512, 512, 2)
    half = flat(shape, ((0, 250), (0, 512)))
    assert window(CentreShareCropd("image"), half) == [(0, 512), (0, 512), (0, 2)]
    assert window(CentreShareCropd("image", min_filled=0), half)[0] == (96, 416)
    # A head in air that the scanner set to zero is complete.
    assert window(CentreShareCropd("image"), flat(shape, ((90, 430), (60, 450))))[0] == (96, 416)


def test_filled_shares():
    assert filled_shares(flat((10, 20, 3), ((2, 7), (5, 20)))) == [0.5, 0.75]
    assert filled_shares(torch.full((1, 4, 5, 2), 3.0)) == [0.0, 0.0]


def test_parameters_change_the_window():
    assert window(CentreShareCropd("image", margin=0.25, min_size=10), flat((40, 40, 2)))[:2] == [(10, 30), (10, 30)]
    crop = CentreShareCropd("image", min_size=10, aspect_range=(0.5, 2))
    assert window(crop, flat((40, 24, 2)))[:2] == [(7, 32), (4, 19)]


@pytest.mark.parametrize(
    ("shape", "x", "y"), [((5, 8, 2), (1, 6), (0, 8)), ((8, 5, 2), (0, 8), (1, 6)), ((6, 6, 2), (0, 6), (0, 6))]
)
def test_pad_to_square(shape, x, y):
    d = item(shape)
    padded = PadToSquared(["image", "label"], value=-1)(d)
    size = max(shape[:2])
    assert padded["image"].shape == padded["label"].shape == (1, size, size, 2)
    assert torch.equal(padded["image"][:, x[0] : x[1], y[0] : y[1]].as_tensor(), d["image"].as_tensor())
    outside = torch.ones(padded["image"].shape, dtype=torch.bool)
    outside[:, x[0] : x[1], y[0] : y[1]] = False
    assert (padded["image"][outside] == -1).all()
    assert (padded["label"][outside] == 0).all()
    assert padded["label"].dtype == torch.uint8
    # The added voxels move the corner: 1 voxel of 0.5 mm against the axis' direction.
    assert padded["image"].affine[:2, 3].tolist() == [10 + 0.5 * x[0], 20 + 0.5 * y[0]]


def test_percentile_centre_is_the_mean_of_the_bright_voxels():
    image = torch.zeros(1, 40, 50, 4)
    image[0, 20:30, 11:21, 1:3] = 5.0  # mean x 24.5, y 15.5; less than a quarter of the volume
    crop = PercentileCentreCropd("image", size=(12, 10))
    # A window of 12 around 24.5 is 19..30; of 10 around 15.5 is 11..20.
    assert window(crop, image) == [(19, 31), (11, 21), (0, 4)]
    assert (crop({"image": image})["image"][0, 1:11, :, 1:3] == 5).all()


def test_percentile_centre_window_stays_inside_or_is_padded():
    image = torch.zeros(1, 40, 20, 2)
    image[0, 38:, 3] = 1.0
    crop = PercentileCentreCropd("image", size=(16, 25))
    assert window(crop, image) == [(24, 40), (-3, 22), (0, 2)]
    out = crop({"image": image})["image"]
    assert out.shape == (1, 16, 25, 2)
    assert torch.equal(out[:, :, 3:23].as_tensor(), image[:, 24:40])
    assert (out[:, :, :3] == 0).all()
    assert (out[:, :, 23:] == 0).all()


@pytest.mark.parametrize(
    ("depth", "first"),
    [(11, 0), (80, 0), (81, 0), (107, 0), (110, 1), (120, 5), (200, 35)],  # int(0.375 * 110) = 41
)
def test_fixed_patch(depth, first):
    crop = FixedPatchCropd("image")
    image = torch.empty(1, 1, 1, 1).expand(1, 512, 512, depth)
    assert window(crop, image) == [(128, 384), (200, 456), (first, first + 80)]


def test_fixed_patch_pads_with_zeros():
    d = item((300, 310, 11))
    out = FixedPatchCropd(["image", "label"])(d)
    assert out["image"].shape == out["label"].shape == (1, 256, 256, 80)
    assert torch.equal(out["image"][:, :172, :110, :11].as_tensor(), d["image"][:, 128:, 200:].as_tensor())
    assert out["image"].as_tensor()[:, 172:].abs().sum() == 0
    assert out["image"].as_tensor()[:, :, 110:].abs().sum() == 0
    assert out["image"].as_tensor()[..., 11:].abs().sum() == 0


def test_affine_of_the_fixed_patch_is_that_of_the_cut_one():
    d = item((300, 310, 110))
    options = {"start": (128, 200), "size": (64, 70, 80), "depth_share": 0.375}
    cut = FixedPatchCropd("image", **options)(d)["image"]
    affine = fixed_patch_affine(d["image"].affine, d["image"].shape[1:], **options)
    assert np.allclose(affine, cut.affine)
    with pytest.raises(InputError, match="the atlas: the volume"):
        fixed_patch_affine(np.eye(4), (100, 300, 90), **options)


def test_fixed_patch_outside_the_volume_is_refused():
    with pytest.raises(InputError, match=r"case_ceT1.nii.gz: the volume, \(232, 30, 11\)"):
        FixedPatchCropd(["image", "label"])(item((232, 30, 11)))


def test_blank_image_has_no_centre():
    d = item((8, 8, 2))
    d["image"][:] = 7
    with pytest.raises(InputError, match=r"case_ceT1.nii.gz: every voxel is 7"):
        PercentileCentreCropd("image")(d)


CROPS = {
    "centre": lambda: CentreShareCropd(["image", "label", "parcellation"], min_size=20, allow_missing_keys=True),
    "square": lambda: PadToSquared(["image", "label", "parcellation"], allow_missing_keys=True),
    "percentile": lambda: PercentileCentreCropd(["image", "label", "parcellation"], (18, 15), allow_missing_keys=True),
    "patch": lambda: FixedPatchCropd(["image", "label"], start=(4, 7), size=(16, 20, 12)),
}


@pytest.mark.parametrize("name", CROPS)
@given(shape=st.tuples(st.integers(8, 45), st.integers(8, 45), st.integers(1, 30)))
@settings(max_examples=40, deadline=None)
def test_inverse_restores_grid_and_content(name, shape):
    crop = CROPS[name]()
    d = item(shape)
    start, end = crop.region(d["image"])
    inside = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(start, end, shape, strict=True))
    forward = crop(d)
    restored = crop.inverse(forward)
    for key, back in restored.items():
        # Where the crop's voxel lies in the scanner is where the original's lay.
        assert np.allclose(forward[key].affine.numpy() @ [*(-start), 1], AFFINE[:, 3])
        assert forward[key].shape[1:] == tuple(end - start)
        expected = np.zeros(d[key].shape)
        expected[(0, *inside)] = d[key][(0, *inside)]
        assert np.array_equal(np.asarray(back), expected)
        assert np.allclose(back.affine, AFFINE)
        assert back.applied_operations == []


@pytest.mark.parametrize("shape", [(232, 30, 11), (288, 288, 50), (512, 512, 3)])
def test_compose_of_chen_returns_labels_to_the_scan(shape):
    d = item(shape)
    keys = ["image", "label"]
    # Torch's "nearest" takes the voxel below and shifts by up to half a voxel each way.
    chain = Compose([CentreShareCropd(keys), PadToSquared(keys), Resized(keys, (384, 384, -1), mode="nearest-exact")])
    forward = chain(d)
    assert forward["image"].shape == (1, 384, 384, shape[2])
    prediction = {**forward, "label": MetaTensor(forward["label"].as_tensor())}
    inverted = Invertd("label", chain, orig_keys="image", nearest_interp=False)(prediction)["label"]
    assert inverted.shape == d["label"].shape
    assert np.allclose(inverted.affine, AFFINE)
    # All structures lie in the crop, and every axis is enlarged, so that nearest neighbours find each voxel again.
    assert torch.equal(inverted.as_tensor().to(torch.uint8), d["label"].as_tensor())


def test_only_the_label_comes_back():
    crop = CROPS["centre"]()
    d = item((30, 30, 4))
    out = crop(d)
    back = crop.inverse({"label": out["label"]})
    assert set(back) == {"label"}
    assert back["label"].shape == (1, 30, 30, 4)


def test_no_key_at_all():
    assert CROPS["centre"]()({"other": 1}) == {"other": 1}


@pytest.mark.parametrize("name", CROPS)
def test_lazy_evaluation_gives_the_same(name):
    keys = ["image", "label"]
    before = [Spacingd(keys, (0.6, 0.5, 1.5), mode=["bilinear", "nearest"]), Flipd(keys, 0)]
    # MONAI merges the two, and fills what the crop adds only after that.
    resampled = Compose(before, lazy=True)(item((40, 36, 9), np.float32))
    expected = CROPS[name]()(resampled)
    lazy = Compose([*before, CROPS[name]()], lazy=True)(item((40, 36, 9), np.float32))
    for key in keys:
        assert not lazy[key].pending_operations
        assert np.allclose(lazy[key].affine, expected[key].affine)
        assert torch.equal(lazy[key].as_tensor(), expected[key].as_tensor())
