"""One log line an epoch."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.utils import CommonKeys


class EpochLine:
    """Trainer handler: logs one line an epoch, the mean loss and, after a validation, its metrics.

    MONAI's `StatsHandler` prints metrics and key metrics in two lines and the loss of single iterations only.
    It must stand after the `ValidationHandler`.

    Args:
        validator: validation engine whose metrics to show.
        interval: epochs between validations.
    """

    def __init__(self, validator: Engine | None = None, interval: int = 1) -> None:
        self.validator = validator
        self.interval = interval
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.losses.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)

    def _add(self, engine: Engine) -> None:
        output = engine.state.output
        item = output[0] if isinstance(output, list) else output  # MONAI repeats the batch's loss in each of its items
        self.losses.append(float(item[CommonKeys.LOSS]))

    def _log(self, engine: Engine) -> None:
        parts = [f"loss {sum(self.losses) / len(self.losses):.4f}"]
        if self.validator is not None and engine.state.epoch % self.interval == 0:
            parts += [f"{name} {float(value):.4f}" for name, value in self.validator.state.metrics.items()]
        engine.logger.info(f"Epoch {engine.state.epoch}/{engine.state.max_epochs}: {', '.join(parts)}")
