"""Which cases an epoch looks at."""

from __future__ import annotations

from collections.abc import Iterator

import ignite.distributed as idist
import torch
from torch.utils.data import Sampler


class CaseSampler(Sampler[int]):
    """Draws a fixed number of cases an epoch, by default with replacement, as nnU-Net does.

    An epoch's length is then independent of the number of cases. torch's `RandomSampler` draws the same cases in all
    processes of a distributed training, and its `DistributedSampler` draws each case once. Here the processes share out
    one draw; each must have the same state of torch's random numbers, which `ResumableRun` sees to.

    Args:
        num_cases: cases to draw from, at least one.
        num_samples: draws an epoch of each process.
        replacement: False goes through all cases in a random order, then again in another.
    """

    def __init__(self, num_cases: int, num_samples: int, replacement: bool = True) -> None:
        if num_cases < 1 or num_samples < 1:
            raise ValueError(f"need at least one case and one sample, got {num_cases} and {num_samples}")
        self.num_cases = num_cases
        self.num_samples = num_samples
        self.replacement = replacement

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        processes = idist.get_world_size()
        count = self.num_samples * processes
        if self.replacement:
            cases = torch.randint(self.num_cases, (count,))
        else:
            rounds = -(-count // self.num_cases)
            cases = torch.cat([torch.randperm(self.num_cases) for _ in range(rounds)])[:count]
        return iter(cases[idist.get_rank() :: processes].tolist())
