"""Tracking of runs with MLflow."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Param, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from monai.handlers import MLFlowHandler
from torch import nn

from crossmoda.engines.history import scalars
from crossmoda.engines.model_registry import register_model
from crossmoda.provenance import git_revision, versions

PARENT_RUN_VARIABLE = "CROSSMODA_PARENT_RUN_ID"
# MLflow's limits
PARAMETER_LENGTH, PARAMETERS_A_CALL = 6000, 100
# Keys of a bundle's metadata and the tags that they become
BUNDLE_TAGS = {"name": "bundle", "version": "bundle_version"}


class MLFlowRun(MLFlowHandler):
    """Handler: one engine run is one MLflow run.

    MONAI's `MLFlowHandler` adopts any run of the experiment that is not finished, so that a training after a crash goes
    on in the dead run, leaves a run that failed as running, and knows no parameters beyond the epochs, no tags, no
    parent and no pictures. Here

    - each engine run starts a run of its own, named `<experiment>_<time>_<process>` if no name is given;
    - the config that was executed is kept as an artifact, and its plain values as parameters;
    - git revision, bundle, its version and the versions of the libraries are tags;
    - every scalar of the trainer's output is a curve, and the validator's metrics go into the same run;
    - the run ends as FINISHED, or as FAILED on an exception, an interrupt, an early exit of the process or a SIGTERM
      (only a `kill -9` leaves it as running);
    - new PNG files of a folder become artifacts after each epoch;
    - the best network may be registered as a model, with its signature.

    Args:
        tracking_uri: e.g. `sqlite:////runs/mlruns.db` or a server's address; MLFLOW_TRACKING_URI goes before it.
        experiment_name: as in MONAI.
        run_name: need not be unique.
        config_file: the executed config, as MONAI's `save_execute_config` names it.
        params: further parameters; nested dicts are flattened.
        tags: further tags.
        parent_run_id: run that this one is nested in; None takes it from CROSSMODA_PARENT_RUN_ID, if set.
        validator: validation engine; its metrics are logged at the trainer's epoch.
        pictures_dir: folder with PNG files.
        iteration_interval: iterations between two points of the losses' curves; an epoch's last iteration always
            is one; 0 logs the metrics of epochs only.
        output_transform: trainer's output to a dict of scalars; None takes all of them.
        registered_model: name under which the network is registered when the run is complete; None leaves that out.
        network: for the registry, see `crossmoda.engines.register_model`.
        weights: for the registry: checkpoint of the network.
        window: for the registry: shape of an input.
        kwargs: the other arguments of `MLFlowHandler`.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str = "crossmoda",
        run_name: str | None = None,
        config_file: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
        validator: Engine | None = None,
        pictures_dir: str | Path | None = None,
        iteration_interval: int = 10,
        output_transform: Callable[[Any], Mapping[str, float]] | None = None,
        registered_model: str | None = None,
        network: nn.Module | None = None,
        weights: str | Path | None = None,
        window: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tracking_uri,
            experiment_name=experiment_name,
            run_name=run_name,
            iteration_log=self._is_due if iteration_interval else False,
            output_transform=output_transform or losses,
            close_on_complete=True,
            **kwargs,
        )
        self.iteration_interval = iteration_interval
        self.config_file = executed_config(config_file) if config_file else None
        self.params = params or {}
        self.tags = tags or {}
        self.parent_run_id = parent_run_id or os.environ.get(PARENT_RUN_VARIABLE)
        self.validator = validator
        self.pictures_dir = Path(pictures_dir) if pictures_dir else None
        self.logged_pictures: dict[Path, float] = {}
        self.registered_model, self.network, self.weights, self.window = registered_model, network, weights, window

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator (and with the trainer's validator)."""
        super().attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail_and_raise)
        if self.validator is not None:
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._log_validation, engine)

    def start(self, engine: Engine) -> None:
        """Start a run of its own, with its parameters, tags and config."""
        self._set_experiment()
        if self.cur_run is None:
            config = _read_config(self.config_file)
            name = self.run_name or f"{self.experiment_name}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"
            self.cur_run = self.client.create_run(
                self.experiment.experiment_id, run_name=name, tags=self._all_tags(config.get("_meta_", {}))
            )
            # StatsHandler raises before the handlers of EXCEPTION_RAISED that stand after it are called.
            atexit.register(self._fail)
            exit_on_sigterm()
            parameters = dict(flatten(config)) | dict(flatten(self.params, keep_all=True))
            self._log_parameters(parameters)
            if self.config_file:
                self.client.log_artifact(self.cur_run.info.run_id, str(self.config_file))
        super().start(engine)

    def epoch_completed(self, engine: Engine) -> None:
        """Log the metrics and the new pictures."""
        super().epoch_completed(engine)
        self._log_pictures()

    def complete(self) -> None:
        """Log artifacts and the pictures that handlers wrote after this one."""
        super().complete()
        self._log_pictures()
        if self.registered_model and self.cur_run is not None:
            register_model(
                self.client.tracking_uri,
                self.cur_run.info.run_id,
                self.network,
                self.weights,
                self.window,
                self.registered_model,
            )

    def close(self) -> None:
        """End the run as FINISHED."""
        super().close()
        atexit.unregister(self._fail)

    def _is_due(self, engine: Engine, iteration: int) -> bool:
        return iteration % self.iteration_interval == 0 or iteration % engine.state.epoch_length == 0

    def _default_epoch_log(self, engine: Engine) -> None:
        metrics = dict(scalars(engine.state.metrics))
        if metrics:
            self._log_metrics(metrics, step=self.global_epoch_transform(engine.state.epoch))

    def _log_validation(self, validator: Engine, trainer: Engine) -> None:
        metrics = dict(scalars(validator.state.metrics))
        if metrics and self.cur_run is not None:
            self._log_metrics(metrics, step=trainer.state.epoch)

    def _log_pictures(self) -> None:
        if self.pictures_dir is None or self.cur_run is None:
            return
        for path in sorted(self.pictures_dir.glob("*.png")):
            changed = path.stat().st_mtime
            if self.logged_pictures.get(path) != changed:
                self.client.log_artifact(self.cur_run.info.run_id, str(path), "pictures")
                self.logged_pictures[path] = changed

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        entries = [Param(name, str(value)[:PARAMETER_LENGTH]) for name, value in parameters.items()]
        for start in range(0, len(entries), PARAMETERS_A_CALL):
            self.client.log_batch(self.cur_run.info.run_id, params=entries[start : start + PARAMETERS_A_CALL])

    def _all_tags(self, metadata: Mapping[str, Any]) -> dict[str, str]:
        tags = {"git_revision": git_revision()}
        tags |= {f"version.{name}": number for name, number in versions().items()}
        tags |= {tag: str(metadata[key]) for key, tag in BUNDLE_TAGS.items() if key in metadata}
        if self.parent_run_id:
            tags[MLFLOW_PARENT_RUN_ID] = self.parent_run_id
        return tags | {name: str(value) for name, value in self.tags.items()}

    def _fail(self) -> None:
        if self.cur_run is not None:
            self.client.set_terminated(self.cur_run.info.run_id, RunStatus.to_string(RunStatus.FAILED))
            self.cur_run = None
        atexit.unregister(self._fail)

    def _fail_and_raise(self, engine: Engine, error: Exception) -> None:
        self._fail()
        raise error  # with a handler on this event, ignite leaves raising to it


def exit_on_sigterm() -> None:
    """Let a SIGTERM end the process by SystemExit and `atexit`, unless somebody else takes care of it already."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def losses(output: Any) -> dict[str, float]:
    """The scalars of a trainer's output: a dict, or MONAI's decollated list of dicts that repeat them."""
    return dict(scalars(output[0] if isinstance(output, list) and output else output))


def start_parent_run(tracking_uri: str, experiment_name: str, run_name: str, parent_run_id: str | None = None) -> str:
    """Start a run for others to be nested in, e.g. one for a whole pipeline.

    Args:
        tracking_uri: where runs are kept.
        experiment_name: made if it is absent.
        run_name: its name.
        parent_run_id: run that it is nested in itself, if any.

    Returns:
        Its id, for `parent_run_id` or CROSSMODA_PARENT_RUN_ID; end it with `end_parent_run`.
    """
    # The handler knows where artifacts of an sqlite store go.
    handler = MLFlowHandler(tracking_uri, experiment_name=experiment_name)
    handler._set_experiment()
    tags = {"git_revision": git_revision()}
    if parent_run_id:
        tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
    return handler.client.create_run(handler.experiment.experiment_id, run_name=run_name, tags=tags).info.run_id


def log_to_run(tracking_uri: str, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics to a run of `start_parent_run`."""
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
    for name, value in metrics.items():
        client.log_metric(run_id, name, value, step=step)


def end_parent_run(tracking_uri: str, run_id: str, failed: bool = False) -> None:
    """End a run of `start_parent_run`.

    What is nested in a finished run and still seems to run was killed, by a power cut or `kill -9`, and taken up again
    in another run: it ends as KILLED. A failed one may have jobs on a cluster that go on.
    """
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
    if not failed:
        _end_killed(client, client.get_run(run_id).info.experiment_id, run_id)
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED if failed else RunStatus.FINISHED))


def _end_killed(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    for child in client.search_runs([experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"):
        _end_killed(client, experiment_id, child.info.run_id)
        if child.info.status == RunStatus.to_string(RunStatus.RUNNING):
            client.set_terminated(child.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def executed_config(text: str) -> Path:
    """Path of the executed config as MONAI's `save_execute_config` gives it.

    For a literal `--output_dir /x` MONAI builds the text `/x + '/config.json'`, which is no expression and is never
    evaluated, so that its own handler silently logs nothing.
    """
    match = re.fullmatch(r"(.*) \+ '(/.*)'", text)
    return Path(match[1] + match[2] if match else text)


def flatten(values: Mapping[str, Any], prefix: str = "", keep_all: bool = False) -> Iterator[tuple[str, Any]]:
    """Names and values of the leaves of a nested dict, with dots between the levels.

    Args:
        values: a config or any dict.
        prefix: name of the level above.
        keep_all: False leaves out what is no plain value in a config: expressions, references, macros, `_target_` and
            the like, metadata, and lists that hold dicts.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if not keep_all and str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, name + ".", keep_all)
        elif keep_all or _is_plain(value):
            yield re.sub(r"[^\w\-. :/]", "_", name), value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return isinstance(value, (int, float)) or value is None


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))
