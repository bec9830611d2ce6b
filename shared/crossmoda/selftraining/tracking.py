"""MLflow: one run for all rounds, one for each round in it, and the trainings' runs in those."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmoda.bundle import bundle_root
from crossmoda.engines import end_parent_run, log_to_run, start_parent_run
from crossmoda.engines.mlflow import PARENT_RUN_VARIABLE, exit_on_sigterm, flatten


@dataclass(frozen=True)
class Tracking:
    """Where runs are logged.

    Args:
        uri: of the MLflow store, e.g. `sqlite:////runs/mlruns.db`; None logs nothing.
        experiment_name: of all runs.
        run_name: of the run for all rounds.
    """

    uri: str | None = None
    experiment_name: str = "crossmoda-self-training"
    run_name: str = "self-training"

    @contextmanager
    def run(self, name: str | None = None, parent: str | None = None) -> Iterator[str | None]:
        """A run while the block lasts; FAILED if it is left by an exception.

        Args:
            name: None takes `run_name`.
            parent: run that it is nested in; None takes CROSSMODA_PARENT_RUN_ID, if set.

        Yields:
            Its id, None without a store.
        """
        if not self.uri:
            yield None
            return
        exit_on_sigterm()
        parent = parent or os.environ.get(PARENT_RUN_VARIABLE)
        run = start_parent_run(self.uri, self.experiment_name, name or self.run_name, parent)
        failed = True
        try:
            yield run
            failed = False
        finally:
            end_parent_run(self.uri, run, failed)

    def log(self, run: str | None, metrics: Mapping[str, Any], step: int) -> None:
        """Log the numbers among nested metrics."""
        if self.uri and run:
            numbers = {k: float(v) for k, v in flatten(metrics, keep_all=True) if isinstance(v, (int, float))}
            log_to_run(self.uri, run, numbers, step)

    def training(self, bundle: str, run_name: str) -> dict[str, Any]:
        """Overrides that make a training log its run."""
        if not self.uri:
            return {}
        tracking = Path(bundle_root(bundle)) / "configs" / "mlflow.json"
        return {
            "tracking": str(tracking),
            "tracking_uri": self.uri,
            "experiment_name": self.experiment_name,
            "run_name": run_name,
        }

    def environment(self, parent: str | None) -> dict[str, str]:
        """Variables of a step whose run is nested in another."""
        return {PARENT_RUN_VARIABLE: parent} if parent else {}
