"""PatchNCE against a hand-computed case and the formulation of the authors' code."""

import math

import pytest
import torch
from torch.nn import functional as F

from crossmoda.losses import PatchNCELoss


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def as_in_the_code(queries, keys, temperature):
    """The positive first, then all keys of the image with the own one masked; one image at a time."""
    losses = []
    for q, k in zip(queries, keys, strict=True):
        positive = (q * k).sum(1, keepdim=True)
        negatives = (q @ k.T).masked_fill(torch.eye(len(q), dtype=torch.bool), -10.0)
        logits = torch.cat([positive, negatives], 1) / temperature
        losses.append(F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)))
    return torch.stack(losses)


def test_by_hand():
    # Two positions, keys e1 and e2; the first query is e1, the second lies between them.
    keys = torch.eye(2)[None]
    queries = torch.tensor([[[1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)]]])
    first = -math.log(math.e**2 / (math.e**2 + 1))  # similarities 1 and 0 over a temperature of 0.5
    second = math.log(2)  # both alike
    assert PatchNCELoss(0.5)(queries, keys).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_equals_the_code_s_formulation():
    torch.manual_seed(0)
    queries, keys = unit(3, 17, 8), unit(3, 17, 8)
    torch.testing.assert_close(PatchNCELoss(0.07)(queries, keys), as_in_the_code(queries, keys, 0.07))


def test_images_are_not_each_other_s_negatives():
    torch.manual_seed(0)
    queries, keys = unit(2, 9, 4), unit(2, 9, 4)
    alone = torch.cat([PatchNCELoss()(queries[i : i + 1], keys[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(PatchNCELoss()(queries, keys), alone)


def test_keys_are_detached():
    queries, keys = unit(1, 5, 4).requires_grad_(), unit(1, 5, 4).requires_grad_()
    PatchNCELoss()(queries, keys).sum().backward()
    assert queries.grad.abs().sum() > 0
    assert keys.grad is None


def test_autocast_does_not_coarsen_it():
    torch.manual_seed(0)
    queries, keys = unit(1, 32, 8), unit(1, 32, 8)
    exact = PatchNCELoss()(queries, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PatchNCELoss()(queries, keys), exact)
