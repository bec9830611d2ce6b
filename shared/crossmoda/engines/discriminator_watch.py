"""Warns when the game between generators and discriminators has ended."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events


class DiscriminatorWatch:
    """Trainer handler: warns once for each discriminator whose loss stays too low or too high.

    With the least-squares loss, halved as in CycleGAN and CUT, a discriminator that knows real from translated for
    certain has a loss of 0, one that answers 0.5 to everything 0.25, one that is always wrong 1. Near 0 for several
    epochs means that it has won: its verdict no longer tells the generator which way is better. Well above 0.25 means
    that it has lost its footing and judges worse than a coin. In between nothing can be said: 0.25 is both the goal
    (translations are perfect) and a blind judge, so look at the pictures.

    It reads the epoch's mean losses from `engine.state.metrics` (`TranslationTrainer` writes them there) and changes
    nothing. MONAI and ignite have no such handler.

    Args:
        low: mean loss below which a discriminator has won.
        high: mean loss above which it has failed.
        patience: epochs in a row on the same side before the warning.
        prefix: how the losses' names begin.
    """

    def __init__(
        self, low: float = 0.02, high: float = 0.35, patience: int = 5, prefix: str = "loss_discriminator"
    ) -> None:
        if not 0 <= low < high or patience < 1:
            raise ValueError(f"0 <= low < high and patience >= 1 are needed, got {low}, {high}, {patience}")
        self.low, self.high, self.patience, self.prefix = low, high, patience, prefix
        self.counts: dict[tuple[str, str], int] = {}
        self.warned: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        for name, value in engine.state.metrics.items():
            if not name.startswith(self.prefix) or name in self.warned or not math.isfinite(value):
                continue
            for side, beyond in (("below", value < self.low), ("above", value > self.high)):
                self.counts[name, side] = self.counts.get((name, side), 0) + 1 if beyond else 0
                if self.counts[name, side] == self.patience:
                    self.warned.add(name)
                    engine.logger.warning(self._message(name, side, value))

    def _message(self, name: str, side: str, value: float) -> str:
        start = f"{name} has been {side} {getattr(self, 'low' if side == 'below' else 'high'):g}"
        start += f" for {self.patience} epochs (now {value:.3g})"
        if side == "below":
            return (
                f"{start}: the discriminator always wins and teaches the generator nothing;"
                " lower discriminator_learning_rate or the other losses' weights, or raise the data's variety"
            )
        return f"{start}: the discriminator judges worse than a coin; lower discriminator_learning_rate"
