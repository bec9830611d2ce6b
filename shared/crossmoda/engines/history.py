"""The run's history as a table: one row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from crossmoda.data.writing import write_text


class HistoryCsv:
    """Handler: writes `history.csv`, one row an epoch with the mean of each loss and each metric.

    Ignite and MONAI log to text, TensorBoard or MLflow only; the report reads this file. It is rewritten whole, under
    a temporary name, after each epoch, so it is always complete and has one column for each name ever seen. A run
    that continues keeps the rows of the epochs before; those after the epoch it continues from are dropped.

    Losses are the scalars in `engine.state.output` (a dict, or MONAI's decollated list of dicts; nested dicts are
    opened), averaged over the epoch's iterations. The validator's metrics get the prefix `val_`. The handler must
    stand before `ResumableRun`, so that a saved epoch is also in the history.

    Args:
        path: the file, e.g. `<output_dir>/history.csv`.
        validator: validation engine, whose metrics go into the row of the trainer's epoch.
    """

    def __init__(self, path: str | Path, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self.rows: dict[int, dict[str, float]] | None = None
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer (and with the validator)."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_losses)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_training)
        if self.validator is not None:
            # Whether the validation comes before or after this handler, it is of the trainer's present epoch.
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._write_validation, engine)

    def _start_epoch(self, engine: Engine) -> None:
        if self.rows is None:
            rows = read_history(self.path) if self.path.is_file() else []
            self.rows = {int(row.pop("epoch")): row for row in rows if row["epoch"] < engine.state.epoch}
        self.sums, self.counts = {}, {}

    def _add_losses(self, engine: Engine) -> None:
        output = engine.state.output
        if isinstance(output, list) and output:
            output = output[0]  # MONAI repeats the batch's scalars in each of its items
        for name, value in scalars(output):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def _write_training(self, engine: Engine) -> None:
        losses = {name: total / self.counts[name] for name, total in self.sums.items()}
        self._write(engine.state.epoch, losses | dict(scalars(engine.state.metrics)))

    def _write_validation(self, validator: Engine, trainer: Engine) -> None:
        metrics = dict(scalars(validator.state.metrics))
        self._write(trainer.state.epoch, {f"val_{name.removeprefix('val_')}": value for name, value in metrics.items()})

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        if self.rows is None:
            return  # a validation before the first epoch
        self.rows.setdefault(epoch, {}).update(values)
        columns = ["epoch", *dict.fromkeys(name for row in self.rows.values() for name in row)]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        for number, row in sorted(self.rows.items()):
            writer.writerow({"epoch": number} | {name: f"{value:.6g}" for name, value in row.items()})
        write_text(table.getvalue(), self.path)


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Rows of a `history.csv`; a value that an epoch does not have is absent from its row."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


def scalars(values: Any) -> Iterator[tuple[str, float]]:
    """Names and values of the plain numbers and one-element tensors in a dict.

    What an engine's output holds of the batch itself is no measure and left out: a grade is a scalar, too.
    """
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        if name in (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED):
            continue
        if isinstance(value, Mapping):
            yield from scalars(value)
        elif isinstance(value, torch.Tensor) and value.numel() == 1:
            yield str(name), float(value.detach())
        elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
            yield str(name), float(value)
