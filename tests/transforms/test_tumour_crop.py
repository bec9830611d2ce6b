"""Crops at the tumour."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import InputError
from crossmoda.transforms import RandTumourCropd, TumourCropd


def case(box, shape=(20, 18, 12)):
    mask = torch.zeros(1, *shape)
    mask[(0, *[slice(first, last) for first, last in box])] = 1
    image = torch.arange(mask.numel(), dtype=torch.float32).reshape(mask.shape)
    return {"mask": MetaTensor(mask), "ceT1": MetaTensor(image)}


def test_middle_of_the_box_becomes_the_middle_of_the_crop():
    data = case([(8, 11), (9, 12), (4, 7)])
    out = TumourCropd(["mask", "ceT1"], size=(7, 5, 3))(data)
    assert torch.equal(out["ceT1"], data["ceT1"][:, 6:13, 8:13, 4:7])
    assert out["mask"][0, 3, 2, 1] == 1
    assert out["mask"].sum() == 27


def test_stays_inside_the_volume():
    data = case([(0, 2), (16, 18), (5, 6)])
    out = TumourCropd(["mask", "ceT1"], size=(8, 8, 4))(data)
    assert torch.equal(out["ceT1"][..., 0], data["ceT1"][:, :8, 10:, 4])


def test_pads_where_the_volume_is_too_small():
    data = case([(8, 11), (9, 12), (4, 7)])
    out = TumourCropd(["mask", "ceT1"], size=(20, 18, 16), value=-7.0)(data)
    assert torch.equal(out["ceT1"][..., 2:14], data["ceT1"])
    assert (out["ceT1"][..., [0, 1, 14, 15]] == -7).all()
    assert (out["mask"][..., [0, 1, 14, 15]] == 0).all()


def test_random_moves_are_uniform_and_repeat_with_the_seed():
    data = case([(9, 10), (8, 9), (6, 7)])
    crop = RandTumourCropd(["mask", "ceT1"], size=(7, 7, 3), shift=(2, 1, 0))
    places = []
    for seed in range(200):
        places.append(tuple(np.argwhere(crop.set_random_state(seed)(data)["mask"][0].numpy())[0]))
    assert set(places) == {(x, y, 1) for x in range(1, 6) for y in range(2, 5)}
    assert places[7] == tuple(np.argwhere(crop.set_random_state(7)(data)["mask"][0].numpy())[0])


def test_empty_mask_is_named():
    with pytest.raises(InputError, match="no tumour in the region of interest"):
        TumourCropd(["mask", "ceT1"], size=(4, 4, 4))(case([(0, 0), (0, 0), (0, 0)]))
