"""Projection heads: sizes and unit length."""

import pytest
import torch
from torch.nn import functional as F

from crossmoda.networks import PatchProjector, ResnetGenerator


def test_heads_of_resnet_9_have_0_56_million_parameters():
    channels = ResnetGenerator().tap_channels(["padded", "down1", "down2", "block1", "block5"])
    assert channels == [1, 128, 256, 256, 256]
    assert sum(p.numel() for p in PatchProjector(channels).parameters()) == pytest.approx(0.56e6, rel=0.01)


def test_rows_become_unit_vectors_of_their_own_head():
    torch.manual_seed(0)
    projector = PatchProjector([3, 5], features=4)
    rows = torch.rand(2, 7, 5)
    first, _, second = projector.heads[1]
    expected = F.linear(F.relu(F.linear(rows, first.weight, first.bias)), second.weight, second.bias)
    result = projector(rows, 1)
    torch.testing.assert_close(result, expected / expected.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(result.norm(dim=-1), torch.ones(2, 7))


def test_result_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PatchProjector([3], features=4)(torch.rand(1, 2, 3), 0).dtype == torch.float32
