"""Clipping of gradients in MONAI's trainers."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents


class GradientClipping:
    """Trainer handler: scales all gradients together so that their norm is at most `max_norm`, before each step.

    MONAI's `SupervisedTrainer` has no such option, and no handler for it. Not for its `amp: true` with float16, where
    gradients are still scaled at that moment; the bundles use bfloat16 (`AutocastInferer`).

    Args:
        network: the network whose gradients are clipped.
        max_norm: largest Euclidean norm.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
