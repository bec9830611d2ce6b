"""Unpaired 2D slices of two sets of volumes, for image translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch.nn import functional as F
from tqdm import tqdm

from crossmoda.errors import InputError, exit_on_input_error

Item = dict[str, Any]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SliceStack:
    """A prepared volume as a stack of slices.

    Attributes:
        image: (Z, 1, X, Y) in [-1, 1], float16 to halve the memory of large sets.
        label: (Z, 1, X, Y) uint8; all 0 for a volume without label.
        structures: indices of the slices that hold VS or cochlea.
        parcellation: (Z, 1, X, Y) uint8, if it was asked for.
        site: index of the volume's site, if sites were given.
    """

    image: torch.Tensor
    label: torch.Tensor
    structures: np.ndarray
    parcellation: torch.Tensor | None = None
    site: int | None = None

    def __len__(self) -> int:
        return len(self.image)

    def position(self, index: int) -> float:
        """Height of a slice within the stack, in (0, 1)."""
        return (index + 0.5) / len(self)

    def index_at(self, position: float) -> int:
        """The slice at a height within the stack."""
        return min(max(int(position * len(self)), 0), len(self) - 1)

    def adjacent(self, index: int, slices: int) -> torch.Tensor:
        """An odd number of adjacent slices around one, as channels (slices, X, Y); -1 (no signal) beyond the ends."""
        first = index - slices // 2
        inside = self.image[max(first, 0) : first + slices, 0]
        below = max(-first, 0)
        above = slices - below - len(inside)
        return F.pad(inside, (0, 0, 0, 0, below, above), value=-1.0)

    def entries(self, index: int, slices: int, domain: str) -> Batch:
        """A slice's part of a batch: `source` or `target`, and `..._label`, `..._parcellation`, `..._site` as known."""
        entries = {domain: self.adjacent(index, slices)}
        if domain == "source":
            entries["source_label"] = self.label[index]
            if self.parcellation is not None:
                entries["source_parcellation"] = self.parcellation[index]
        if self.site is not None:
            entries[f"{domain}_site"] = torch.tensor(self.site)
        return entries


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
        slices: adjacent slices as channels (odd); label and parcellation are those of the middle slice.
        seed: seed of the draws.

    Raises:
        InputError: if `crop_size` exceeds the slices, `structure_share` is set and no slice holds a structure, or
            `slices` is even.
    """

    def __init__(
        self,
        sources: Sequence[SliceStack],
        targets: Sequence[SliceStack],
        structure_share: float | None = None,
        position_tolerance: float | None = None,
        crop_size: Sequence[int] | None = None,
        flip_prob: float = 0.5,
        slices: int = 1,
        seed: int = 0,
    ) -> None:
        _check_odd(slices)
        self.sources = sources
        self.targets = targets
        self.structure_share = structure_share
        self.position_tolerance = position_tolerance
        self.crop_size = crop_size
        self.flip_prob = flip_prob
        self.slices = slices
        # Pairs rather than stacks are drawn, so that every slice is as likely as any other.
        self.all_slices = [(i, z) for i, stack in enumerate(sources) for z in range(len(stack))]
        self.structure_slices = [(i, z) for i, stack in enumerate(sources) for z in stack.structures]
        if structure_share and not self.structure_slices:
            raise InputError("structure_share is set, but no source slice holds a label within the region of interest")
        smallest = np.min([stack.image.shape[-2:] for stack in (*sources, *targets)], axis=0)
        if crop_size and (np.asarray(crop_size) > smallest).any():
            raise InputError(f"crop_size {list(crop_size)} is larger than the slices {smallest.tolist()}: lower it")
        self.set_random_state(seed=seed)

    def __call__(self, _: Any = None) -> Batch:
        """An item's entries.

        `source` and `target`, each (slices, X, Y); `source_label` (1, X, Y); as far as the stacks know them
        `source_parcellation` (1, X, Y), `source_site` and `target_site` (int64 scalars).
        """
        stack, z = self._source()
        target = self.targets[self.R.randint(len(self.targets))]
        window = self._window(stack.image.shape[-2:])
        flips = self.R.random(2) < self.flip_prob
        other = self._target_index(target, stack.position(z))
        entries = {
            name: _cut(value, window, flips[0]) if value.ndim else value
            for name, value in stack.entries(z, self.slices, "source").items()
        }
        for name, value in target.entries(other, self.slices, "target").items():
            entries[name] = _cut(value, window, flips[1]) if value.ndim else value
        return _with_float_images(entries)

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
        parcellation_classes: classes of the source's `parcellation`, background included, at most 256; None reads none.
        sites: names of sites, whose places in this list become `source_site` and `target_site`; None gives none.
        progress: whether to show a bar while preparing.
        **options: those of `RandUnpairedSlice`.

    Raises:
        InputError: as `load_stacks` and `RandUnpairedSlice`.
    """

    def __init__(
        self,
        data: Sequence[Item],
        target_data: Sequence[Item],
        transform: Callable[[Item], Item],
        length: int | None = None,
        parcellation_classes: int | None = None,
        sites: Sequence[str] | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        sources, targets = _load_domains(data, target_data, transform, parcellation_classes, sites, progress)
        draw = RandUnpairedSlice(sources, targets, **options)
        super().__init__(data=range(length or len(draw.all_slices)), transform=draw)


class ValidationSlices(Dataset):
    """Fixed source slices with their labels, beside target slices at the same heights.

    Of each source volume half of the slices are spread over those that hold VS or cochlea, and half over all.

    Args:
        data: datalist items of the labelled source volumes.
        target_data: datalist items of target volumes; their labels, if any, are not read.
        transform: as in `UnpairedSlices`.
        slices_per_case: slices of each source volume.
        slices: as in `RandUnpairedSlice`.
        parcellation_classes: as in `UnpairedSlices`.
        sites: as in `UnpairedSlices`.
        progress: whether to show a bar while preparing.

    Raises:
        InputError: as `load_stacks`, or if `slices` is even.
    """

    def __init__(
        self,
        data: Sequence[Item],
        target_data: Sequence[Item],
        transform: Callable[[Item], Item],
        slices_per_case: int = 8,
        slices: int = 1,
        parcellation_classes: int | None = None,
        sites: Sequence[str] | None = None,
        progress: bool = True,
    ) -> None:
        _check_odd(slices)
        sources, targets = _load_domains(data, target_data, transform, parcellation_classes, sites, progress)
        items = []
        for i, stack in enumerate(sources):
            for n, z in enumerate(_spread_slices(stack, slices_per_case)):
                target = targets[(i + n) % len(targets)]
                other = target.index_at(stack.position(z))
                entries = stack.entries(z, slices, "source") | target.entries(other, slices, "target")
                items.append(_with_float_images(entries))
        super().__init__(data=items)


def load_stacks(
    items: Sequence[Item],
    transform: Callable[[Item], Item],
    name: str,
    progress: bool = True,
    parcellation_classes: int | None = None,
    sites: Sequence[str] | None = None,
) -> list[SliceStack]:
    """Prepare volumes and keep them as stacks of slices.

    Args:
        items: datalist items.
        transform: see `UnpairedSlices`.
        name: what the progress bar calls them.
        progress: whether to show the bar.
        parcellation_classes: see `UnpairedSlices`.
        sites: see `UnpairedSlices`.

    Raises:
        InputError: if the volumes differ in their in-plane size, or an item lacks the parcellation asked for, has one
            with other classes, or is of none of the sites.
    """
    # What the list alone tells comes first: preparing takes minutes.
    places = [_site_index(item, sites) for item in items]
    if parcellation_classes is not None:
        _check_parcellations_given(items)
    stacks = []
    for item, site in zip(tqdm(items, f"prepare {name}", disable=not progress), places, strict=True):
        prepared = transform(dict(item))
        parcellation = None
        if parcellation_classes is not None:
            parcellation = _parcellation(prepared["parcellation"], parcellation_classes, item["parcellation"])
        stacks.append(_stack(prepared, parcellation, site))
    sizes = {tuple(stack.image.shape[-2:]) for stack in stacks}
    if len(sizes) > 1:
        raise InputError(f"volumes must be of one in-plane size after preprocessing, but are {sorted(sizes)}")
    return stacks


def without_labels(items: Sequence[Item]) -> list[Item]:
    """Target items stripped of labels and parcellations, should a data list hold any: adaptation must not see them."""
    return [{key: value for key, value in item.items() if key not in ("label", "parcellation")} for item in items]


def _load_domains(
    data: Sequence[Item],
    target_data: Sequence[Item],
    transform: Callable[[Item], Item],
    parcellation_classes: int | None,
    sites: Sequence[str] | None,
    progress: bool,
) -> tuple[list[SliceStack], list[SliceStack]]:
    targets = without_labels(target_data)
    return (
        load_stacks(data, transform, "source volumes", progress, parcellation_classes, sites),
        load_stacks(targets, transform, "target volumes", progress, sites=sites),
    )


def _check_odd(slices: int) -> None:
    if slices < 1 or slices % 2 == 0:
        raise InputError(f"slices is {slices}: give an odd number, so that there is a middle slice")


def _site_index(item: Item, sites: Sequence[str] | None) -> int | None:
    if sites is None:
        return None
    if item.get("site") not in sites:
        raise InputError(
            f"{item['image']} is of site '{item.get('site', '')}', but sites are {', '.join(sites)}:"
            " name its site in the data list, or add it to sites"
        )
    return list(sites).index(item["site"])


def _check_parcellations_given(items: Sequence[Item]) -> None:
    missing = [item["image"] for item in items if not item.get("parcellation")]
    if missing:
        raise InputError(
            f"{missing[0]} has no parcellation in the data list ({len(missing)} of {len(items)} have none):"
            " add them, or train without that proxy task (lambda_parcellation: 0)"
        )


def _parcellation(volume: torch.Tensor, classes: int, path: Any) -> torch.Tensor:
    values = torch.as_tensor(volume)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= min(classes, 256):
        raise InputError(
            f"{path} has classes from {lowest} to {highest}, but parcellation_classes is {classes}:"
            " set it to the number of classes with the background, at most 256"
        )
    return _slices_first(values, torch.uint8)


def _stack(item: Item, parcellation: torch.Tensor | None = None, site: int | None = None) -> SliceStack:
    image = _slices_first(item["image"], torch.float16)
    label = item.get("label")
    label = torch.zeros(image.shape, dtype=torch.uint8) if label is None else _slices_first(label, torch.uint8)
    return SliceStack(image, label, np.flatnonzero(label.flatten(1).any(1).numpy()), parcellation, site)


def _slices_first(volume: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(1, X, Y, Z) -> (Z, 1, X, Y) without MONAI's metadata, which each slice would otherwise copy."""
    return torch.as_tensor(volume).permute(3, 0, 1, 2).to(dtype).as_subclass(torch.Tensor).contiguous()


def _with_float_images(entries: Batch) -> Batch:
    return entries | {name: entries[name].float() for name in ("source", "target")}


def _spread_slices(stack: SliceStack, count: int) -> list[int]:
    """`count` slices, half of them spread over those with structures."""
    structures = stack.structures if len(stack.structures) else np.arange(len(stack))
    chosen = [structures[int((n + 0.5) * len(structures) / (count // 2))] for n in range(count // 2)]
    rest = count - len(chosen)
    return [int(z) for z in chosen] + [stack.index_at((n + 0.5) / rest) for n in range(rest)]


def _cut(image: torch.Tensor, window: tuple[slice, slice], flip: bool) -> torch.Tensor:
    """A window of (C, X, Y), mirrored left to right (x in RAS) if asked for."""
    image = image[:, window[0], window[1]]
    return image.flip(1) if flip else image


unpaired_slices_or_exit = exit_on_input_error(UnpairedSlices)
validation_slices_or_exit = exit_on_input_error(ValidationSlices)
