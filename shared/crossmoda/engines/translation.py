"""One trainer and one evaluator for every image translation objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Evaluator, Trainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Transform
from monai.utils import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer

from crossmoda.engines.objectives.base import Batch, TranslationObjective, middle_slice

TARGET = "target"
SEGMENTATION = "segmentation"


class TranslationTrainer(Trainer):
    """Trains any `TranslationObjective`: steps, mixed precision, gradient clipping, several processes, mean losses.

    Each iteration updates the generators and then the discriminators (or the other way round if the objective says
    so). The discriminators are frozen while the generators learn. `engine.state.output` holds `loss` (the
    generators' sum), `pred` (the translation is not kept: None) and every named loss; `engine.state.metrics` holds
    their means over the epoch. Schedules, validation, pictures and checkpoints are handlers.

    MONAI's `GanTrainer` and `AdversarialTrainer` take one generator, one discriminator and paired losses, and never
    fire MODEL_COMPLETED.

    With torch.distributed initialised, parameters are broadcast from rank 0 at the start and gradients averaged
    after each backward pass; DistributedDataParallel would wrap `forward`, but an objective has several losses.

    Args:
        device: where to run.
        max_epochs: epochs to train.
        train_data_loader: yields batches as `TranslationObjective` describes; other entries are left out.
        objective: networks and losses, on `device`.
        generator_optimizer: over `objective.generator_parameters()`.
        discriminator_optimizer: over `objective.discriminator_parameters()`.
        epoch_length: iterations an epoch; default the loader's length.
        amp: mixed precision by autocast, on CPU as well.
        amp_dtype: "bfloat16", or "float16" (CUDA only, with loss scaling) for GPUs without bfloat16.
        clip_gradients: greatest norm of the generators' and of the discriminators' gradients; None does not clip.
        postprocessing: transforms of the output, run on MODEL_COMPLETED.
        key_train_metric: as in `monai.engines.Trainer`.
        additional_metrics: as in `monai.engines.Trainer`.
        train_handlers: handlers with an `attach` method.
        decollate: give the output out as a list of dicts, one a slice (MONAI's default handlers expect that).
        non_blocking: copy batches to the device asynchronously.

    Raises:
        FloatingPointError: in a step whose losses are not finite, naming them.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable,
        objective: TranslationObjective,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        epoch_length: int | None = None,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        clip_gradients: float | None = None,
        postprocessing: Transform | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        train_handlers: Sequence[Any] = (),
        decollate: bool = True,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            amp=False,  # MONAI's own scaler and autocast are for CUDA and one optimizer
            decollate=decollate,
        )
        self.objective = objective
        self.optimizer = generator_optimizer  # the name that MONAI's learning rate logging looks for
        self.discriminator_optimizer = discriminator_optimizer
        self.clip_gradients = clip_gradients
        self.autocast = _autocast(self.state.device, amp, amp_dtype)
        scaling = amp and amp_dtype == "float16" and self.state.device.type == "cuda"
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=scaling)
        self._sums: dict[str, torch.Tensor] = {}
        # Registered before the handlers, so that these find the epoch's means in `state.metrics`.
        self.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._average_losses)
        self._register_handlers(train_handlers)
        # Registered after them, so that what a checkpoint brought is broadcast.
        self.add_event_handler(Events.STARTED, self._share_parameters)

    def _iteration(self, engine: Engine, batchdata: Batch) -> Any:
        batch = _to_device(batchdata, engine.state.device, engine.non_blocking)
        self.objective.train()
        steps = [self._generator_step, self._discriminator_step]
        losses: Batch = {}
        for step in reversed(steps) if self.objective.discriminator_first else steps:
            losses |= step(batch)
        self.grad_scaler.update()
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        engine.state.output = {Keys.LOSS: losses.pop("loss"), Keys.IMAGE: batch["source"], **losses}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _generator_step(self, batch: Batch) -> Batch:
        with frozen(self.objective.discriminator_parameters()):
            losses = self._step(
                self.objective.generator_loss, batch, self.optimizer, self.objective.generator_parameters()
            )
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total} | {f"loss_{name}": value for name, value in losses.items()}

    def _discriminator_step(self, batch: Batch) -> Batch:
        losses = self._step(
            self.objective.discriminator_loss,
            batch,
            self.discriminator_optimizer,
            self.objective.discriminator_parameters(),
        )
        return {f"loss_{name}": value for name, value in losses.items()}

    def _step(
        self, loss: Callable[[Batch], Batch], batch: Batch, optimizer: Optimizer, parameters: list[nn.Parameter]
    ) -> Batch:
        optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses = loss(batch)
        total = torch.stack(list(losses.values())).sum()
        if not math.isfinite(total.item()):
            values = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
            raise FloatingPointError(f"loss is not finite in iteration {self.state.iteration}: {values}")
        self.grad_scaler.scale(total).backward()
        average_gradients(parameters)
        if self.clip_gradients is not None:
            self.grad_scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, self.clip_gradients)
        self.grad_scaler.step(optimizer)
        return {name: value.detach() for name, value in losses.items()}

    def _start_epoch(self, engine: Engine) -> None:
        self.objective.start_epoch(engine.state.epoch)
        self._sums = {}

    def _average_losses(self, engine: Engine) -> None:
        for name, total in self._sums.items():
            engine.state.metrics[name] = float(total) / engine.state.epoch_length

    def _share_parameters(self) -> None:
        if dist.is_available() and dist.is_initialized():
            for parameter in self.objective.parameters():
                dist.broadcast(parameter.data, src=0)


class TranslationEvaluator(Evaluator):
    """Translates validation slices; its metrics (`TranslationScore`) need no target label.

    The output holds `image` (source), `label` (the source's), `pred` (translation), `target` (real target slices),
    and `segmentation` (None if the objective has no segmenter for target slices), each (B, 1, H, W): of adjacent slices
    the middle one.

    Args:
        device: where to run.
        val_data_loader: batches as in training.
        objective: the one being trained.
        inferer: how `objective.translate` is applied; default `SimpleInferer`.
        amp: mixed precision by autocast.
        amp_dtype: "bfloat16" or "float16".
        **options: further ones of `monai.engines.Evaluator`, e.g. `key_val_metric`, `val_handlers`.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable,
        objective: TranslationObjective,
        inferer: Inferer | None = None,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        **options: Any,
    ) -> None:
        # The output is one batch of slices, which the metrics take whole.
        super().__init__(device=device, val_data_loader=val_data_loader, amp=False, decollate=False, **options)
        self.objective = objective
        self.inferer = inferer or SimpleInferer()
        self.autocast = _autocast(self.state.device, amp, amp_dtype)

    def _iteration(self, engine: Engine, batchdata: Batch) -> Batch:
        batch = _to_device(batchdata, engine.state.device, engine.non_blocking)
        with self.mode(self.objective), self.autocast():
            translated = self.inferer(batch["source"], self.objective.translate, **self.objective.conditions(batch))
            segmentation = self.objective.segment(translated)
        engine.state.output = {
            Keys.IMAGE: middle_slice(batch["source"]),
            Keys.LABEL: batch["source_label"],
            Keys.PRED: middle_slice(translated).float(),
            TARGET: middle_slice(batch["target"]),
            SEGMENTATION: segmentation,
        }
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within the block these parameters get no gradient, though gradients flow through their layers."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes; does nothing in a single one.

    All processes must have run the same losses, so that the same parameters hold a gradient.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _autocast(device: torch.device, enabled: bool, dtype: str) -> Callable[[], torch.autocast]:
    allowed = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in allowed:
        raise ValueError(f"amp_dtype must be one of {sorted(allowed)}, but is '{dtype}'")
    if enabled and dtype == "float16" and device.type != "cuda":
        raise ValueError("amp_dtype 'float16' needs a CUDA device; take 'bfloat16'")
    return lambda: torch.autocast(device.type, dtype=allowed[dtype], enabled=enabled)


def _to_device(batch: Batch, device: torch.device, non_blocking: bool) -> Batch:
    """The entries that an objective may look at: those of the source and of the target."""
    return {
        name: value.to(device, non_blocking=non_blocking)
        for name, value in batch.items()
        if name.startswith(("source", "target"))
    }
