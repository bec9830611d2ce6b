"""What learning rate schedules need beyond torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def linear_decay(constant_epochs: int, decay_epochs: int) -> Callable[[int], float]:
    """Factor 1 for `constant_epochs`, then linear towards 0 over `decay_epochs`, as in the CycleGAN code.

    After e finished epochs it is 1 - max(0, e + 1 - constant_epochs) / (decay_epochs + 1).

    Args:
        constant_epochs: epochs at the initial learning rate.
        decay_epochs: epochs of the descent.

    Example:
        >>> [round(linear_decay(2, 2)(epoch), 2) for epoch in range(4)]
        [1.0, 1.0, 0.67, 0.33]
    """

    def factor(epoch: int) -> float:
        return 1.0 - max(0, epoch + 1 - constant_epochs) / (decay_epochs + 1)

    return factor


def poly_decay(epochs: int, lowest: float = 0.0, exponent: float = 0.9) -> Callable[[int], float]:
    """Factor from 1 down to `lowest` over `epochs`: lowest + (1 - lowest) (1 - e / epochs) ^ exponent.

    torch's `PolynomialLR` ends at 0.

    Args:
        epochs: epochs of the descent.
        lowest: the last rate as a share of the first.
        exponent: 1 is linear.

    Example:
        >>> [round(poly_decay(2, 0.5, 1.0)(epoch), 2) for epoch in range(3)]
        [1.0, 0.75, 0.5]
    """

    def factor(epoch: int) -> float:
        return lowest + (1 - lowest) * max(0.0, 1 - epoch / epochs) ** exponent

    return factor


def warmup_cosine_decay(
    epochs: int, iterations: int, lowest: float = 0.0, warmup: int = 0, start: float = 1.0
) -> Callable[[int], float]:
    """Factor of each iteration: a cosine from 1 to `lowest` by epochs, times a linear warm-up by iterations.

    The form of mmcv's runner, which Chen 2023's training has: after e whole epochs the cosine is
    lowest + (1 - lowest) (1 + cos(pi e / epochs)) / 2; iteration i < warmup has start + (1 - start) i / warmup of it.
    MONAI's `WarmupCosineSchedule` descends to 0 and cuts it off at its `end_lr`.

    Args:
        epochs: epochs of the descent.
        iterations: iterations of an epoch.
        lowest: the last rate as a share of the first.
        warmup: iterations of the warm-up.
        start: share of the rate at the first iteration.

    Example:
        >>> [round(warmup_cosine_decay(2, 2, 0.5, 2, 0.5)(iteration), 2) for iteration in range(5)]
        [0.5, 0.75, 0.75, 0.75, 0.5]
    """

    def factor(iteration: int) -> float:
        epoch = min(iteration // iterations, epochs)
        cosine = lowest + (1 - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2
        return cosine * (start + (1 - start) * min(1.0, iteration / warmup) if warmup else 1.0)

    return factor


def step_argument(schedule: LRScheduler, metric: str = "loss") -> Callable[[Engine], tuple[Any, ...]]:
    """`step_transform` of MONAI's `LrScheduleHandler` for any schedule: a plateau schedule gets the metric.

    MONAI's handler calls `step()` without an argument unless told otherwise, which `ReduceLROnPlateau` refuses.

    Args:
        schedule: the handler's schedule.
        metric: name in the trainer's `state.metrics`; its mean over all processes is used, so that their learning
            rates stay the same.
    """

    def argument(engine: Engine) -> tuple[Any, ...]:
        if not isinstance(schedule, ReduceLROnPlateau):
            return ()
        return (idist.all_reduce(engine.state.metrics[metric]) / idist.get_world_size(),)

    return argument
