"""Learning rate factors for `torch.optim.lr_scheduler.LambdaLR`."""

from __future__ import annotations

from collections.abc import Callable


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
