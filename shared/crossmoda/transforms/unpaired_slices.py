"""Unpaired 2D slices of two sets of volumes, for image translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from tqdm import tqdm

Item = dict[str, Any]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SliceStack:
    """A prepared volume as a stack of slices.

    Attributes:
        image: (Z, 1, X, Y) in [-1, 1], float16 to halve the memory of large sets.
        label: (Z, 1, X, Y) uint8; all 0 for a volume without label.
        structures: indices of the slices that hold VS or cochlea.
    """

    image: torch.Tensor
    label: torch.Tensor
    structures: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def position(self, index: int) -> float:
        """Height of a slice within the stack, in (0, 1)."""
        return (index + 0.5) / len(self)

    def index_at(self, position: float) -> int:
        """The slice at a height within the stack."""
        return min(max(int(position * len(self)), 0), len(self) - 1)


class RandUnpairedSlice(Randomizable):
    """Draws a source slice with its label and a target slice of another subject.

    MONAI's `PatchDataset` and grid patches cut one image at a time; unpaired translation needs two domains an item.

    Args:
        sources: labelled stacks.
        targets: unlabelled stacks of the same in-plane size.
        structure_share: share of the draws whose source slice holds VS or cochlea; None draws slices evenly.
        position_tolerance: the target slice is drawn at the source slice's height within the stack, give or take
            this share of the stack, so that over-sampled heights are so in both domains; None draws independently.
        crop_size: in-plane size (X, Y) of a random crop, at the same place in both; None takes the whole slice.
        flip_prob: probability of a left-right flip, for each slice on its own.
        seed: seed of the draws.

    Raises:
        ValueError: if `crop_size` exceeds the slices, or `structure_share` is set and no slice holds a structure.
    """

    def __init__(
        self,
        sources: Sequence[SliceStack],
        targets: Sequence[SliceStack],
        structure_share: float | None = None,
        position_tolerance: float | None = None,
        crop_size: Sequence[int] | None = None,
        flip_prob: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.sources = sources
        self.targets = targets
        self.structure_share = structure_share
        self.position_tolerance = position_tolerance
        self.crop_size = crop_size
        self.flip_prob = flip_prob
        # Pairs rather than stacks are drawn, so that every slice is as likely as any other.
        self.all_slices = [(i, z) for i, stack in enumerate(sources) for z in range(len(stack))]
        self.structure_slices = [(i, z) for i, stack in enumerate(sources) for z in stack.structures]
        if structure_share and not self.structure_slices:
            raise ValueError("structure_share is set, but no source slice holds a label within the region of interest")
        smallest = np.min([stack.image.shape[-2:] for stack in (*sources, *targets)], axis=0)
        if crop_size and (np.asarray(crop_size) > smallest).any():
            raise ValueError(f"crop_size {list(crop_size)} is larger than the slices {smallest.tolist()}: lower it")
        self.set_random_state(seed=seed)

    def __call__(self, _: Any = None) -> Batch:
        """`source`, `source_label` and `target`, each (1, X, Y)."""
        stack, z = self._source()
        target = self.targets[self.R.randint(len(self.targets))]
        window = self._window(stack.image.shape[-2:])
        flips = self.R.random(2) < self.flip_prob
        other = self._target_index(target, stack.position(z))
        return {
            "source": _cut(stack.image[z], window, flips[0]).float(),
            "source_label": _cut(stack.label[z], window, flips[0]),
            "target": _cut(target.image[other], window, flips[1]).float(),
        }

    def _source(self) -> tuple[SliceStack, int]:
        slices = self.all_slices
        if self.structure_share is not None and self.R.random() < self.structure_share:
            slices = self.structure_slices
        i, z = slices[self.R.randint(len(slices))]
        return self.sources[i], int(z)

    def _target_index(self, target: SliceStack, position: float) -> int:
        if self.position_tolerance is None:
            return int(self.R.randint(len(target)))
        return target.index_at(position + self.R.uniform(-1, 1) * self.position_tolerance)

    def _window(self, size: Sequence[int]) -> tuple[slice, slice]:
        if self.crop_size is None:
            return slice(None), slice(None)
        starts = [self.R.randint(full - part + 1) for full, part in zip(size, self.crop_size, strict=True)]
        return tuple(slice(start, start + part) for start, part in zip(starts, self.crop_size, strict=True))


class UnpairedSlices(Dataset):
    """Dataset of `RandUnpairedSlice` draws; the volumes are prepared once and stay in memory.

    Args:
        data: datalist items of the labelled source volumes.
        target_data: datalist items of the target volumes; their labels, if any, are not read.
        transform: prepares one item: `image` (and `label`) become (1, X, Y, Z), the image in [-1, 1], all of one
            in-plane size.
        length: draws an epoch; None takes as many as there are source slices.
        progress: whether to show a bar while preparing.
        **options: those of `RandUnpairedSlice`.
    """

    def __init__(
        self,
        data: Sequence[Item],
        target_data: Sequence[Item],
        transform: Callable[[Item], Item],
        length: int | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        draw = RandUnpairedSlice(
            load_stacks(data, transform, "source volumes", progress),
            load_stacks(without_labels(target_data), transform, "target volumes", progress),
            **options,
        )
        super().__init__(data=range(length or len(draw.all_slices)), transform=draw)


class ValidationSlices(Dataset):
    """Fixed source slices with their labels, beside target slices at the same heights.

    Of each source volume half of the slices are spread over those that hold VS or cochlea, and half over all.

    Args:
        data: datalist items of the labelled source volumes.
        target_data: datalist items of target volumes; their labels, if any, are not read.
        transform: as in `UnpairedSlices`.
        slices_per_case: slices of each source volume.
        progress: whether to show a bar while preparing.
    """

    def __init__(
        self,
        data: Sequence[Item],
        target_data: Sequence[Item],
        transform: Callable[[Item], Item],
        slices_per_case: int = 8,
        progress: bool = True,
    ) -> None:
        sources = load_stacks(data, transform, "source volumes", progress)
        targets = load_stacks(without_labels(target_data), transform, "target volumes", progress)
        items = []
        for i, stack in enumerate(sources):
            for n, z in enumerate(_spread_slices(stack, slices_per_case)):
                target = targets[(i + n) % len(targets)]
                items.append(
                    {
                        "source": stack.image[z].float(),
                        "source_label": stack.label[z],
                        "target": target.image[target.index_at(stack.position(z))].float(),
                    }
                )
        super().__init__(data=items)


def load_stacks(
    items: Sequence[Item], transform: Callable[[Item], Item], name: str, progress: bool = True
) -> list[SliceStack]:
    """Prepare volumes and keep them as stacks of slices.

    Args:
        items: datalist items.
        transform: see `UnpairedSlices`.
        name: what the progress bar calls them.
        progress: whether to show the bar.

    Raises:
        ValueError: if the volumes differ in their in-plane size.
    """
    stacks = [_stack(transform(dict(item))) for item in tqdm(items, f"prepare {name}", disable=not progress)]
    sizes = {tuple(stack.image.shape[-2:]) for stack in stacks}
    if len(sizes) > 1:
        raise ValueError(f"volumes must be of one in-plane size after preprocessing, but are {sorted(sizes)}")
    return stacks


def without_labels(items: Sequence[Item]) -> list[Item]:
    """Target items stripped of labels, should a data list hold any: adaptation must not see them."""
    return [{key: value for key, value in item.items() if key != "label"} for item in items]


def _stack(item: Item) -> SliceStack:
    image = torch.as_tensor(item["image"]).permute(3, 0, 1, 2).to(torch.float16)
    label = item.get("label")
    if label is None:
        label = torch.zeros(image.shape, dtype=torch.uint8)
    else:
        label = torch.as_tensor(label).permute(3, 0, 1, 2).to(torch.uint8)
    # `.as_subclass` takes MONAI's metadata off, which each slice would otherwise copy.
    image, label = (x.as_subclass(torch.Tensor).contiguous() for x in (image, label))
    return SliceStack(image, label, np.flatnonzero(label.flatten(1).any(1).numpy()))


def _spread_slices(stack: SliceStack, count: int) -> list[int]:
    """`count` slices, half of them spread over those with structures."""
    structures = stack.structures if len(stack.structures) else np.arange(len(stack))
    chosen = [structures[int((n + 0.5) * len(structures) / (count // 2))] for n in range(count // 2)]
    rest = count - len(chosen)
    return [int(z) for z in chosen] + [stack.index_at((n + 0.5) / rest) for n in range(rest)]


def _cut(image: torch.Tensor, window: tuple[slice, slice], flip: bool) -> torch.Tensor:
    """A window of (1, X, Y), mirrored left to right (x in RAS) if asked for."""
    image = image[:, window[0], window[1]]
    return image.flip(1) if flip else image
