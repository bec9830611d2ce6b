"""RandForegroundCropd: where patches lie, how often they hold foreground, and what stands in their margins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import ClassesToIndices

from crossmoda.transforms import RandForegroundCropd

SHAPE = (10, 9, 6)
SIZE = (4, 3, 2)


def item(*labelled):
    """A volume whose voxels tell where they are, and a label with (voxel, class) pairs."""
    image = torch.arange(1, 1 + np.prod(SHAPE), dtype=torch.float32).reshape(1, *SHAPE)
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    for voxel, number in labelled:
        label[(0, *voxel)] = number
    indices = ClassesToIndices(num_classes=3)(label)
    return {"image": MetaTensor(image), "label": MetaTensor(label), "label_cls_indices": indices}


def crop(share, margin=(0, 0, 0), seed=0):
    transform = RandForegroundCropd(["image", "label"], SIZE, foreground_share=share, margin=margin)
    transform.set_random_state(seed)
    return transform


def test_patches_lie_anywhere_within_the_volume():
    transform, data = crop(0.0), item(((9, 8, 5), 1))
    starts = set()
    for _ in range(2000):
        out = transform(data)
        assert out["image"].shape == out["label"].shape == (1, *SIZE)
        starts.add(transform.start)
        x, y, z = transform.start
        assert torch.equal(out["image"], data["image"][:, x : x + 4, y : y + 3, z : z + 2])
    assert starts == {(x, y, z) for x in range(7) for y in range(7) for z in range(5)}


def test_forced_patches_hold_the_voxel_in_their_middle():
    transform = crop(1.0)
    out = transform(item(((5, 4, 3), 1)))
    assert out["label"][0, 2, 1, 1] == 1  # the middle is size // 2
    assert transform.start == (3, 3, 2)
    transform(item(((9, 0, 5), 2)))  # at a corner: the patch stays inside
    assert transform.start == (6, 0, 4)


def test_classes_are_drawn_alike_whatever_their_size():
    voxels = [((x, y, 0), 1) for x in range(5) for y in range(9)]
    transform, data = crop(1.0), item(*voxels, ((9, 8, 5), 2))
    small = np.mean([int((transform(data)["label"] == 2).any()) for _ in range(600)])
    assert abs(small - 0.5) < 0.08  # 45 voxels of class 1, one of class 2


@pytest.mark.parametrize("share", [0.0, 1 / 3, 1.0])
def test_share_of_forced_patches(share):
    transform, data = crop(share), item(((9, 8, 5), 1))
    held = np.mean([int((transform(data)["label"] == 1).any()) for _ in range(900)])
    by_chance = 1 / (7 * 7 * 5)  # one corner start of all
    assert abs(held - (share + (1 - share) * by_chance)) < 0.05


def test_without_foreground_it_is_a_random_patch():
    transform = crop(1.0)
    starts = {transform.start for _ in range(50) if transform(item()) is not None}
    assert len(starts) > 20


def test_margin_is_cut_out_too_and_zero_outside():
    margin = (2, 1, 3)
    transform, data = crop(0.5, margin), item(((5, 4, 3), 1))
    padded = torch.nn.functional.pad(data["image"].as_tensor(), [3, 3, 1, 1, 2, 2])
    for _ in range(50):
        out = transform(data)["image"]
        assert out.shape == (1, 8, 5, 8)
        x, y, z = transform.start
        assert torch.equal(out.as_tensor(), padded[:, x : x + 8, y : y + 5, z : z + 8])
    assert isinstance(out, MetaTensor)


def test_same_seed_same_patch_and_small_volumes_are_refused():
    data = item(((5, 4, 3), 1))
    first, second = ([crop(0.5, seed=3)(data)["image"] for _ in range(5)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(ValueError, match="pad it first"):
        RandForegroundCropd(["image"], (11, 3, 2))(data)


def test_cut_samples_make_a_batch():
    # the classes' voxels differ in number from case to case, and lists of them can't be stacked
    samples = [crop(0.5)(item(((5, 4, 3), 1))), crop(0.5)(item(((5, 4, 3), 1), ((6, 4, 3), 1)))]
    assert all(set(sample) == {"image", "label"} for sample in samples)
    assert list_data_collate(samples)["image"].shape == (2, 1, *SIZE)
