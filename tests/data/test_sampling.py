"""CaseSampler: how many cases an epoch has, and how processes share them."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch

from crossmoda.data import CaseSampler


def drawn(sampler, seed=0):
    torch.manual_seed(seed)
    return list(sampler)


def test_draws_all_cases_with_replacement():
    sampler = CaseSampler(5, 1000)
    cases = drawn(sampler)
    assert len(cases) == len(sampler) == 1000
    assert set(cases) == set(range(5))
    assert all(abs(cases.count(case) / 1000 - 0.2) < 0.05 for case in range(5))
    assert drawn(sampler) == cases
    assert drawn(sampler, seed=1) != cases


def test_without_replacement_all_cases_come_in_turn():
    cases = drawn(CaseSampler(5, 13, replacement=False))
    assert sorted(cases[:5]) == sorted(cases[5:10]) == list(range(5))
    assert cases[:5] != cases[5:10]
    assert len(cases) == 13
    assert len(set(cases[10:])) == 3


def test_processes_share_one_draw(monkeypatch):
    whole = drawn(CaseSampler(100, 20))
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        parts.append(drawn(CaseSampler(100, 10)))
    assert [case for pair in zip(*parts, strict=True) for case in pair] == whole


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0)])
def test_refuses_nothing(numbers):
    with pytest.raises(ValueError, match="at least one"):
        CaseSampler(*numbers)
