"""Checkpoints: kill a training at any moment, start it again, and end with the same weights."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from crossmoda.errors import InputError


def save_atomically(state: Any, path: str | Path) -> None:
    """`torch.save` under a temporary name, then rename, so that a kill never leaves half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


class SaveBest:
    """Validation handler: writes one network's plain state dict whenever the key metric improves.

    MONAI's `CheckpointSaver(save_key_metric=True)` forgets the best value when a run is killed and continued, and
    then overwrites a better checkpoint with a worse one; this handler has a `state_dict`, to go into
    `ResumableRun`'s `save_dict`.

    Args:
        network: the network, as the bundle's `network_def` builds it.
        path: the file, e.g. `models/model.pt`; loads with `weights_only=True`.
        larger_is_better: False for a key metric that falls, such as a distance.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path, larger_is_better: bool = True) -> None:
        self.network = network
        self.path = Path(path)
        self.sign = 1.0 if larger_is_better else -1.0
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the validation engine."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_if_better)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Take over the best value of an earlier run."""
        self.best = state["best"]

    def _save_if_better(self, engine: Engine) -> None:
        name = engine.state.key_metric_name
        value = float(engine.state.metrics[name])
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            if idist.get_rank() > 0:
                return  # all processes hold the same weights; the first one writes them
            save_atomically(self.network.state_dict(), self.path)
            engine.logger.info(f"{name} {value:.4f} is the best so far: saved {self.path}")


class ResumableRun:
    """Handler: seeds every epoch, saves the whole training state after it, and continues from it after a kill.

    MONAI's `CheckpointSaver` and `CheckpointLoader` neither continue the epoch counter on their own nor restore the
    random state, so a run that was killed would end otherwise than one that was not. Here each epoch's randomness
    follows from `seed` and the epoch alone, so there is no random state to store.

    The file is written under a temporary name and then renamed: a kill during writing leaves the former state.
    It holds tensors and plain types only, and is read with `weights_only=True`.

    The handler must stand last in the trainer's list, so that what the other handlers change at an epoch's end
    (learning rates, best metric) is in the saved state.

    Args:
        path: the file, e.g. `models/last.pt`.
        save_dict: objects with `state_dict` and `load_state_dict` (networks, optimizers, schedulers, handlers).
        dataset: dataset whose random transforms are seeded anew each epoch (needs `num_workers=0` or workers that
            are not persistent); None if there are none.
        seed: base seed, >= 0.
        resume: False ignores an existing file and starts from nothing.
    """

    def __init__(
        self, path: str | Path, save_dict: dict[str, Any], dataset: Any = None, seed: int = 0, resume: bool = True
    ) -> None:
        self.path = Path(path)
        self.save_dict = save_dict
        self.dataset = dataset
        self.seed = seed
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, engine: Engine) -> None:
        if not (self.resume and self.path.is_file()):
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, item in self.save_dict.items():
                item.load_state_dict(state[name])
            engine.state.epoch = state["epoch"]
            engine.state.iteration = state["iteration"]
        except Exception as error:  # torch raises many kinds for damaged files
            raise InputError(
                f"{self.path} is damaged or of another training: give another --ckpt_dir, or --resume False"
            ) from error
        engine.logger.info(f"Continuing after epoch {state['epoch']} of {self.path}")

    def _seed_epoch(self, engine: Engine) -> None:
        seed = self.seed * 100_003 + engine.state.epoch  # a prime, so that neighbouring seeds share no epochs
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        transform = getattr(self.dataset, "transform", None)
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=seed % 2**32)

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        state: dict[str, Any] = {name: item.state_dict() for name, item in self.save_dict.items()}
        state["epoch"] = engine.state.epoch
        state["iteration"] = engine.state.iteration
        save_atomically(state, self.path)
