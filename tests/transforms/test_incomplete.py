import pytest
import torch
from monai.data import MetaTensor

from crossmoda.transforms import RandIncompleteImaged


def item(shape=(1, 7, 12, 5)):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 1.9 - 0.9
    return {"image": MetaTensor(image), "label": torch.ones(shape, dtype=torch.uint8)}


def transform(seed=0, **more):
    return RandIncompleteImaged(["image", "label"], [-1, 0], **{"prob": 1.0, **more}).set_random_state(seed)


def blanked(label, axis):
    """How many rows of an axis are zero at its beginning and end."""
    rows = label[0].float().movedim(axis, 0).flatten(1).amax(1).tolist()
    first = rows.index(1.0)
    return first, len(rows) - 1 - max(i for i, row in enumerate(rows) if row)


def test_both_ends_lose_as_many_rows_in_image_and_label():
    blank, original = transform(), item()
    seen = set()
    for _ in range(80):
        out = blank(item())
        start, end = blanked(out["label"], axis=1)
        assert start == end
        seen.add(start)
        kept = slice(start, 12 - start)
        assert torch.equal(out["image"][:, :, kept], original["image"][:, :, kept])
        assert (out["label"][:, :, kept] == 1).all()
        for rows in (slice(0, start), slice(12 - start, 12)):
            assert (out["image"][:, :, rows] == -1).all()
            assert (out["label"][:, :, rows] == 0).all()
        assert out["label"].dtype == torch.uint8
    assert seen == {0, 1, 2, 3, 4}  # up to a third of 12


def test_range_and_input_stay():
    given, original = item(), item()
    out = transform(seed=3)(given)
    assert out["image"].min() >= -1
    assert out["image"].max() <= 1
    assert torch.equal(given["image"], original["image"])
    assert torch.equal(given["label"], original["label"])


def test_axes_are_drawn():
    blank = transform(axes=(0, 1))
    axes = set()
    for _ in range(20):
        out = blank(item())
        axes |= {axis for axis in range(3) if blanked(out["label"], axis)[0] > 0}
    assert axes == {0, 1}


@pytest.mark.parametrize("off", [{"max_share": 0.0}, {"prob": 0.0}], ids=str)
def test_zero_strength_does_nothing(off):
    out, original = transform(**off)(item()), item()
    assert torch.equal(out["image"], original["image"])
    assert torch.equal(out["label"], original["label"])


def test_probability_is_kept():
    blank = transform(prob=0.5, max_share=0.5)
    changed = sum(bool((blank(item())["label"] == 0).any()) for _ in range(400))
    assert 0.5 * 6 / 7 * 400 - 50 < changed < 0.5 * 6 / 7 * 400 + 50  # 1 of 7 draws blanks no row


def test_half_the_axis_is_the_most():
    with pytest.raises(ValueError, match=r"0\.5"):
        transform(max_share=0.6)
