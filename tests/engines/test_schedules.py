"""Linear decay against the formula of the CycleGAN code, through torch's scheduler."""

from itertools import pairwise

import pytest
import torch

from crossmoda.engines import linear_decay


def test_li_2021_keeps_100_epochs_and_falls_over_100():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay(100, 100))
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:100] == [2e-4] * 100
    assert rates[100] == pytest.approx(2e-4 * 100 / 101)
    assert rates[199] == pytest.approx(2e-4 * 1 / 101)
    steps = {round(a - b, 12) for a, b in pairwise(rates[100:])}
    assert len(steps) == 1
