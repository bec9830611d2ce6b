"""Training of a student: its data, its samples, its transforms and the average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.transforms import Randomizable, Transform
from torch.utils.data import Sampler

from crossmoda.data import find_faults, label_map, read_sections, split_cases
from crossmoda.data.datalist import CORE_KEYS
from crossmoda.data.validation import raise_first
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import IGNORE

Item = dict[str, Any]


def load_student_items(path: str | Path, section: str = "source_training", progress: bool = True) -> list[Item]:
    """Read and validate a combined data list: translated scans with labels, real scans with pseudo-labels.

    `load_datalist` refuses labels of ignored voxels and drops the mark of pseudo-labels.

    Args:
        path: the data list that `write_combined` wrote, or any labelled one.
        section: its section.
        progress: whether to show a bar while checking.

    Returns:
        Items {case, site, image, label, pseudo} with absolute paths; `pseudo` is False for translated scans.

    Raises:
        InputError: at the first fault, see `load_datalist`.
    """
    items = [
        {**{key: item[key] for key in CORE_KEYS if key in item}, "pseudo": bool(item.get("pseudo", False))}
        for item in read_sections(path, (section,))[section]
    ]
    classes = tuple(label_map(path))
    translated, real = ([item for item in items if item["pseudo"] == kind] for kind in (False, True))
    raise_first(find_faults(translated, True, allowed_labels=classes, progress=progress))
    # Not required, for then one without foreground is a fault: a teacher may find nothing, and selection may keep it.
    raise_first(find_faults(real, allowed_labels=(*classes, IGNORE), progress=progress))
    unlabelled = [item["image"] for item in real if not item.get("label")]
    if unlabelled:
        raise InputError(f"{unlabelled[0]} is marked as pseudo-labelled, but has no label: make {path} again")
    return items


def split_students(
    items: Sequence[Item], val_fraction: float, seed: int, fold: int | None = None, num_folds: int = 5
) -> tuple[list[Item], list[Item]]:
    """Split the translated scans as `split_cases` does, and train on all pseudo-labelled ones.

    A student is judged on true labels only, and on the same cases in all rounds.

    Args:
        items: of `load_student_items`.
        val_fraction: see `split_cases`.
        seed: see `split_cases`.
        fold: see `split_cases`.
        num_folds: see `split_cases`.

    Returns:
        Training items and validation items.

    Raises:
        InputError: see `split_cases`.
    """
    translated, real = ([item for item in items if item["pseudo"] == kind] for kind in (False, True))
    training, validation = split_cases(translated, val_fraction, seed, fold, num_folds)
    return training + real, validation


class OnlyTranslated(Randomizable, Transform):
    """Applies a transform to translated scans, and leaves real ones as they are.

    What corrects a translator's look (painted or scaled targets) would spoil a real scan.

    Args:
        transform: a dictionary transform.
    """

    def __init__(self, transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]]) -> None:
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OnlyTranslated:
        """Seed the transform."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Nothing is drawn here."""

    def __call__(self, data: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Change a translated scan."""
        return data if data["pseudo"] else self.transform(data)


def for_students(transforms: Sequence[Callable], only_translated: Sequence[Callable]) -> list[Callable]:
    """A bundle's transforms, those of `only_translated` kept from real scans.

    Args:
        transforms: of training, in order.
        only_translated: some of them, the same objects.
    """
    chosen = {id(transform) for transform in only_translated}
    return [OnlyTranslated(item) if id(item) in chosen else item for item in transforms]


class MixedSampler(Sampler[int]):
    """Draws an epoch's samples so that a given share of them is real.

    Within either kind each case comes equally often, give or take one, in random order; torch's
    `WeightedRandomSampler` draws with replacement, so that cases of a short epoch come never or often. In a
    distributed training the processes share out one draw, as in `CaseSampler`.

    Args:
        pseudo: for each case whether it is a real scan with a pseudo-label.
        num_samples: samples an epoch of each process.
        real_share: share of real scans among the samples, in [0, 1]; None takes their share of the cases. Without real
            cases, or without translated ones, the others make up all samples.
    """

    def __init__(self, pseudo: Sequence[bool], num_samples: int, real_share: float | None = None) -> None:
        if not len(pseudo) or num_samples < 1:
            raise ValueError(f"need at least one case and one sample, got {len(pseudo)} and {num_samples}")
        if real_share is not None and not 0 <= real_share <= 1:
            raise ValueError(f"real_share is {real_share}: give a share from 0 to 1")
        kinds = torch.tensor([bool(kind) for kind in pseudo])
        self.real, self.translated = torch.nonzero(kinds).flatten(), torch.nonzero(~kinds).flatten()
        share = len(self.real) / len(kinds) if real_share is None else real_share
        self.share = float(share) if len(self.real) and len(self.translated) else float(len(self.real) > 0)
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        processes = idist.get_world_size()
        total = self.num_samples * processes
        real = round(self.share * total)
        drawn = torch.cat([_repeated(self.real, real), _repeated(self.translated, total - real)])
        order = drawn[torch.randperm(total)]
        return iter(order[idist.get_rank() :: processes].tolist())


def _repeated(indices: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of the indices: whole permutations, then a part of one."""
    if count == 0:
        return indices[:0]
    rounds = -(-count // len(indices))
    return torch.cat([indices[torch.randperm(len(indices))] for _ in range(rounds)])[:count]


class WeightAverage:
    """Handler: the exponential moving average of a network's weights (mean teacher, Tarvainen 2017).

    Ignite's `EMAHandler` with a state to resume from; without a momentum it does nothing and `average` is the network.

    Args:
        network: the network that is trained.
        momentum: share of the new weights in each step, in (0, 1), e.g. 0.001; None leaves the average out.
    """

    def __init__(self, network: torch.nn.Module, momentum: float | None = None) -> None:
        self.handler = EMAHandler(network, momentum, handle_buffers="update") if momentum is not None else None
        self.average = self.handler.ema_model if self.handler else network

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self.handler is not None:
            self.handler.attach(engine, event=Events.ITERATION_COMPLETED)

    def state_dict(self) -> dict[str, Any]:
        """The average's weights."""
        return dict(self.average.state_dict()) if self.handler else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved weights."""
        if self.handler is not None:
            self.average.load_state_dict(state)


load_student_items_or_exit = exit_on_input_error(load_student_items)
split_students_or_exit = exit_on_input_error(split_students)
