"""Several weights of one network in one inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import ensure_tuple

from crossmoda.engines.members import hard_labels
from crossmoda.engines.weights import load_weights
from crossmoda.errors import exit_on_input_error


class EnsembleInferer(Inferer):
    """Runs another inferer with each of several weights, and averages the class probabilities.

    nnU-Net's way with the folds of a cross-validation. The members take turns in one network, read from disk for each
    image, so that memory is one network's whatever their number. MONAI's `EnsembleEvaluator` holds all networks, and
    all their outputs, at a time.

    The mean is returned as its logarithm, from which a softmax makes the mean again: what follows is the same as
    for one network's logits.

    Args:
        inferer: the inferer to run, e.g. `SlidingWindowInferer`; it returns logits (B, C, ...).
        paths: checkpoints of the members, plain state dicts of the network, or one alone; None or none runs the inferer
            as it is, with the weights that the network has.
    """

    def __init__(self, inferer: Inferer, paths: Sequence[str | Path] | str | Path | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.paths = ensure_tuple(paths or ())
        self.member_labels: list[torch.Tensor] = []  # of the last image, see `last_member_labels`

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs `network` on `inputs` with each member's weights; it keeps those of the last.

        Args:
            inputs: images (B, C, ...).
            network: network that returns logits, one tensor with the same spatial axes.
            args: handed to the inferer.
            kwargs: handed to the inferer.

        Returns:
            Logits of one network, or the logarithm of the members' mean probabilities.

        Raises:
            InputError: if a checkpoint is missing, unreadable, or of another network.
        """
        if not self.paths:
            return self.inferer(inputs, network, *args, **kwargs)
        total, self.member_labels = 0, []
        for path in self.paths:
            load_weights(network, path)
            logits = self.inferer(inputs, network, *args, **kwargs)
            self.member_labels.append(hard_labels(logits))
            total = total + logits.softmax(dim=1)
        return (total / len(self.paths)).clamp_min(torch.finfo(torch.float32).tiny).log()


def load_members(network: torch.nn.Module, paths: Sequence[str | Path] | str | Path) -> None:
    """Load each checkpoint in turn, so that a faulty one is known before the first scan is segmented.

    Args:
        network: as the bundle's `network_def` builds it; it keeps the last one's weights.
        paths: checkpoints, plain state dicts, or one alone.

    Raises:
        InputError: if one is missing, unreadable, or of another network.
    """
    for path in ensure_tuple(paths):
        load_weights(network, path)


load_members_or_exit = exit_on_input_error(load_members)
