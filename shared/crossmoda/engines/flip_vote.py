"""A vote over flipped passes in place of their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.networks import one_hot

from crossmoda.engines.members import hard_labels
from crossmoda.engines.mirror import mirror_dims

VOTED_LOGIT = 20.0  # a softmax makes 1 of it, within 1e-8


class FlipVoteInferer(Inferer):
    """Runs another inferer on the image and on its mirror images, and lets their label maps vote.

    `MirrorInferer` averages outputs; here each pass decides first. The result comes as logits of certainty, so that
    what follows is the same; its probabilities are 0 or 1 but for interpolation.

    Args:
        inferer: the inferer to run, e.g. `SlidingWindowInferer`; it returns logits (B, C, X, Y, Z).
        vote: label maps of all passes to one, e.g. `crossmoda.fusion.FlipVote`.
        axes: spatial axes to mirror; n axes cost 2^n passes.
        enabled: False runs the inferer as it is.
    """

    def __init__(
        self,
        inferer: Inferer,
        vote: Callable[[Sequence[np.ndarray]], np.ndarray],
        axes: Sequence[int] = (0, 1, 2),
        enabled: bool = True,
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.vote = vote
        self.axes = tuple(axes)
        self.enabled = enabled
        self.member_labels: list[torch.Tensor] = []  # of the last image, see `last_member_labels`

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs `network` on `inputs` and its mirror images.

        Args:
            inputs: images (B, C, X, Y, Z).
            network: network that returns one tensor with the same spatial axes.
            args: handed to the inferer.
            kwargs: handed to the inferer.

        Returns:
            Logits: `VOTED_LOGIT` for the class that the vote gave, 0 for the others; float32.
        """
        self.member_labels = []
        if not self.enabled:
            return self.inferer(inputs, network, *args, **kwargs)
        for dims in mirror_dims(self.axes):
            logits = self.inferer(torch.flip(inputs, dims), network, *args, **kwargs)
            self.member_labels.append(hard_labels(torch.flip(logits, dims)))
        voted = [self.vote([labels[item].numpy() for labels in self.member_labels]) for item in range(len(inputs))]
        labels = torch.from_numpy(np.stack(voted)[:, None]).to(logits.device)
        return VOTED_LOGIT * one_hot(labels, logits.shape[1])
