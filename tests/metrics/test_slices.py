"""What translations keep of their source: by hand on small volumes, and against a plain formulation."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.metrics import edge_agreement, slice_flicker, structure_contrast
from crossmoda.metrics.slices import FEWEST_VOXELS, LEVELS, STABLE_LIMIT, STABLE_SHARE, strongest_edges


@pytest.fixture
def head():
    """A noisy source (1, 48, 40, 12) in [-1, 1] with a ball that changes its section, and its inverse as hrT2."""
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in (48, 40, 12)], indexing="ij")
    tissue = torch.where(x**2 + y**2 + (z / 2) ** 2 < 0.6, 0.4, -0.3) + 0.2 * torch.sin(4 * x)
    source = tissue[None] + 0.03 * torch.randn(1, 48, 40, 12, generator=generator)
    return source.clamp(-1, 1), (-tissue)[None] + 0.03 * torch.randn(1, 48, 40, 12, generator=generator)


def test_strongest_edges_are_those_of_a_plain_formulation(head):
    source, _ = head
    smooth = np.stack([ndimage.gaussian_filter(plane, 1.0, mode="nearest") for plane in source[0].permute(2, 0, 1)])
    gradient = np.hypot(*np.gradient(smooth, axis=(1, 2)))
    plain = gradient >= np.quantile(gradient, 0.9)
    assert (plain == strongest_edges(source)[:, 0].numpy()).mean() > 0.995
    assert strongest_edges(source).float().mean().item() == pytest.approx(0.1, abs=1e-3)


def test_edges_do_not_mind_contrast_and_sign(head):
    source, _ = head
    assert edge_agreement(source, source) == {"edges_kept": 1, "edges_new": 0}
    inverted = edge_agreement(-0.4 * source + 0.1, source)
    assert inverted == {"edges_kept": pytest.approx(1, abs=1e-3), "edges_new": pytest.approx(0, abs=1e-3)}


def test_moved_edges_are_lost_and_new():
    source = torch.zeros(1, 40, 40, 1)
    source[:, 20:] = 1  # its edge takes rows 18-21 or so: a tenth
    near, far = torch.zeros_like(source), torch.zeros_like(source)
    near[:, 21:], far[:, 32:] = 1, 1
    assert edge_agreement(near, source) == {"edges_kept": 1, "edges_new": 0}
    assert edge_agreement(far, source) == {"edges_kept": 0, "edges_new": 1}


def test_a_flat_translation_has_no_edges(head):
    source, _ = head
    flat = torch.zeros_like(source)
    assert edge_agreement(flat, source)["edges_kept"] == 0
    flat[:, 20:, :, 3] = 1  # one edge in a volume that is flat elsewhere
    assert 0 < strongest_edges(flat).float().mean() < 0.05


def test_contrast_by_hand():
    image = torch.full((1, 30, 30, 2), -0.5)
    label = torch.zeros(1, 30, 30, 2)
    label[:, 10:14, 10:14] = 1
    image[:, 10:14, 10:14] = 0.3
    image[:, 25:] = 1  # farther than the ring
    found = structure_contrast(image, label)
    assert found["contrast_VS"] == pytest.approx(40)  # 0.8 of a range of 2
    assert found["visible_VS"] == pytest.approx(1)
    assert np.isnan(found["contrast_cochlea"])
    assert np.isnan(found["visible_cochlea"])
    label[:, 18:20, 18:20] = 2  # as dark as its ring
    assert structure_contrast(image, label)["contrast_cochlea"] == pytest.approx(0, abs=1e-5)
    assert structure_contrast(image, label)["visible_cochlea"] == pytest.approx(0, abs=1e-5)


def plain_flicker(translated, source):
    """The definition in loops."""
    medians = []
    for z in range(1, source.shape[-1] - 1):
        t0, t1, t2 = (translated[0, ..., z + d].numpy().ravel() for d in (-1, 0, 1))
        s0, s1, s2 = (source[0, ..., z + d].numpy().ravel() for d in (-1, 0, 1))
        change = np.maximum(abs(s1 - s0), abs(s2 - s1))
        level = np.minimum(np.floor((s1 + 1) / 2 * LEVELS), LEVELS - 1)
        for n in range(LEVELS):
            own = level == n
            if own.sum() < FEWEST_VOXELS:
                continue
            even = own & (change <= min(np.quantile(change[own], STABLE_SHARE), STABLE_LIMIT))
            if even.sum() >= STABLE_SHARE * FEWEST_VOXELS:
                jump = np.sort((t1 - (t0 + t2) / 2)[even])
                medians.append(jump[(len(jump) - 1) // 2])  # torch's median is the lower one
    return 50 * np.sqrt(np.mean(np.square(medians)) / 1.5)


def test_flicker_is_that_of_a_plain_formulation(head):
    source, target = head
    assert slice_flicker(target, source) == pytest.approx(plain_flicker(target, source), rel=1e-4)


def test_flicker_measures_the_offsets_of_slices(head):
    source, target = head
    sigma = 0.08
    offsets = sigma * torch.randn(12, generator=torch.Generator().manual_seed(3))
    seconds = offsets[1:-1] - (offsets[:-2] + offsets[2:]) / 2
    expected = 50 * float((seconds.square().mean() / 1.5).sqrt())
    assert slice_flicker(target + offsets, source) == pytest.approx(expected, rel=0.1)
    assert slice_flicker(target, source) < 0.1 * expected


def test_drift_and_changing_anatomy_are_no_flicker(head):
    source, target = head
    quiet = slice_flicker(target, source)
    drift = torch.linspace(-0.5, 0.5, 12)
    assert slice_flicker(target + drift, source) == pytest.approx(quiet, abs=0.02)
    # A bright spot that blinks in the translation where the source blinks as well.
    source, target = source.clone(), target.clone()
    source[:, 10:16, 10:16, ::2] += 0.5
    target[:, 10:16, 10:16, ::2] += 0.5
    assert slice_flicker(target, source) < quiet + 0.3


def test_flicker_of_one_tissue_alone_is_seen(head):
    source, target = head
    bright = source > 0.25
    blinking = torch.where(bright, torch.tensor([0.1, -0.1] * 6), 0.0)
    assert slice_flicker(target + blinking, source) > 3 * slice_flicker(target, source)


def test_flicker_of_too_few_slices_is_unknown(head):
    source, target = head
    assert np.isnan(slice_flicker(target[..., :2], source[..., :2]))
