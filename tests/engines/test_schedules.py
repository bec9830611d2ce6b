"""Linear decay against the formula of the CycleGAN code, through torch's scheduler."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from monai.handlers import LrScheduleHandler

from crossmoda.engines import linear_decay, poly_decay, step_argument, warmup_cosine_decay


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


def engine(loss):
    """What the handler looks at."""
    return SimpleNamespace(state=SimpleNamespace(metrics={"loss": loss}))


def test_plateau_schedule_gets_the_metric_and_others_nothing():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    linear = torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay(1, 1))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    assert step_argument(linear)(engine(3.0)) == ()
    assert step_argument(plateau)(engine(3.0)) == (3.0,)


def test_chen_2023_plateau_falls_to_a_fifth_after_six_epochs_without_progress():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=5, threshold=0.01)
    handler = LrScheduleHandler(schedule, print_lr=False, step_transform=step_argument(schedule))
    rates = []
    for loss in [3.0, *[2.99] * 6]:  # less than 1 % better
        handler(engine(loss))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4] * 6 + [4e-5])


def test_han_2022_falls_to_1e_5():
    factor = poly_decay(1000, 1e-5 / 2e-4, 0.9)
    rates = [2e-4 * factor(epoch) for epoch in (0, 500, 999, 1000, 1001)]
    expected = [1e-5 + (2e-4 - 1e-5) * (1 - epoch / 1000) ** 0.9 for epoch in (0, 500, 999, 1000)]
    assert rates == pytest.approx([*expected, 1e-5])


def test_chen_2023_warms_up_for_50_iterations_and_falls_by_epochs():
    epochs, iterations = 200, 20
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    factor = warmup_cosine_decay(epochs, iterations, lowest=0.23, warmup=50, start=1 / 3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rates = []
    for _ in range(epochs * iterations + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for step, rate in enumerate(rates):  # mmcv's two formulas
        cosine = 2.3e-5 + 0.5 * (1e-4 - 2.3e-5) * (1 + math.cos(math.pi * (step // iterations) / epochs))
        warm = cosine * (1 - (1 - step / 50) * (1 - 1 / 3)) if step < 50 else cosine
        assert rate == pytest.approx(warm, rel=1e-9)
    assert rates[0] == pytest.approx(1e-4 / 3)
    assert rates[-1] == pytest.approx(2.3e-5)


def test_no_warm_up_is_the_cosine_alone():
    factor = warmup_cosine_decay(2, 1)
    assert [factor(step) for step in range(4)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
