"""The image pool: fill, exchange, resume."""

import io

import torch

from crossmoda.engines import ImagePool


def batch(value, size=2):
    return torch.full((size, 1, 2, 2), float(value))


def test_hands_images_back_while_it_fills():
    pool = ImagePool(size=4)
    for value in (1, 2):
        assert torch.equal(pool(batch(value)), batch(value))
    assert [int(image[0, 0, 0]) for image in pool.images] == [1, 1, 2, 2]


def test_when_full_half_of_the_images_are_exchanged_and_none_is_lost():
    pool = ImagePool(size=10, seed=1)
    shown = [pool(torch.full((1, 1, 1, 1), float(i))).item() for i in range(2000)]
    assert sorted(shown + [image.item() for image in pool.images]) == sorted([*range(10), *range(2000)])
    share = sum(value != i for i, value in enumerate(shown)) / 2000
    assert 0.45 < share < 0.55


def test_size_0_passes_images_through():
    images = batch(1)
    assert ImagePool(size=0)(images) is images


def test_state_continues_the_same_choices():
    pool = ImagePool(size=3, seed=2)
    for i in range(5):
        pool(batch(i))
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    continued = ImagePool(size=3, seed=99)
    continued.load_state_dict(torch.load(file, weights_only=True))
    for i in range(10, 20):
        assert torch.equal(pool(batch(i)), continued(batch(i)))


def test_state_of_an_empty_pool_loads():
    pool = ImagePool(size=3)
    pool.load_state_dict(ImagePool(size=3, seed=5).state_dict())
    assert pool.images == []
