"""nnU-Net's planning: from a data set's fingerprint to spacing, patch, network and batch size.

Written after `ExperimentPlanner` of nnunetv2 2.8.1 (and, for `rules="v1"`, `ExperimentPlanner3D_v21` of nnU-Net v1);
Isensee et al., nnU-Net, Nature Methods 2021, gives the reasons. The numbers below are theirs.

nnU-Net reads arrays as (z, y, x) and puts the axis with the largest spacing first. The rules run in that order here
too, because ties between axes are broken by it; what comes out is in (x, y, z).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, pi, prod
from typing import Literal

import numpy as np

from crossmoda.errors import InputError
from crossmoda.planning.fingerprint import Fingerprint
from crossmoda.planning.topology import Topology, feature_map_voxels, topology_v1, topology_v2

Configuration = Literal["3d_fullres", "2d"]
CONFIGURATIONS = ("3d_fullres", "2d")
RULES = ("v2", "v1")

ANISOTROPY = 3.0  # an axis this many times as coarse as the next (or the patch as short) is treated for itself
BASE_FEATURES = 32
MIN_BATCH = 2
MAX_DATASET_SHARE = 0.05  # of all voxels in one batch
LOWRES_SHARE = 0.25  # a patch that sees less of the median scan makes nnU-Net add a low-resolution network
REFERENCE_MEMORY_GB = 8.0
ROTATION_3D, ROTATION_2D, ROTATION_LONG_2D = pi / 6, pi, pi / 12  # rad


@dataclass(frozen=True)
class Plan:
    """A planned segmentation; axes are (x, y, z).

    A 2D network is given as a 3D one with kernels, strides and patch of 1 along the slice axis: the same operations.

    Attributes:
        configuration: `3d_fullres` or `2d`.
        rules: `v2` or `v1`.
        spacing: mm, that images are resampled to.
        median_shape: voxels, of the resampled images.
        patch_size: voxels.
        batch_size: patches in a step.
        strides: of each stage, finest first.
        kernel_sizes: of each stage.
        features: channels of each stage.
        slice_axis: the axis with the largest spacing.
        separate_slices: whether resampling takes the nearest slice (order 0) along `slice_axis`.
        use_nonzero_mask: whether the z-score is taken of what is not 0 alone.
        dummy_2d: whether rotation and scaling stay in the slices' plane.
        rotation: rad, the largest angle of the augmentation; in the plane alone with `dummy_2d` and in 2D.
        mirror_axes: of augmentation and inference.
        batch_dice: whether the Dice loss sums over the batch.
        feature_voxels: nnU-Net's measure of memory for one patch.
    """

    configuration: str
    rules: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    slice_axis: int
    separate_slices: bool
    use_nonzero_mask: bool
    dummy_2d: bool
    rotation: float
    mirror_axes: tuple[int, ...]
    batch_dice: bool
    feature_voxels: int

    @property
    def deep_supervision_weights(self) -> tuple[float, ...]:
        """Weight of each output, finest first: halved each time, 0 for the last, sum 1."""
        weights = [0.5**index for index in range(len(self.strides) - 1)]
        if len(weights) > 1:
            weights[-1] = 0.0
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class _Rules:
    """What differs between the versions and dimensions."""

    topology: Callable[[Sequence[float], Sequence[float]], Topology]
    max_features: int
    reference: float  # feature-map voxels of a patch of which two fit into `REFERENCE_MEMORY_GB`
    initial_patch: Callable[[np.ndarray], list[int]]
    round_batch: Callable[[float], int] = round
    input_counts: int = 0  # times that the input adds to the feature maps
    lowres_step: float = 1.03  # by which the spacing grows in search of a low-resolution network


_RULES = {
    ("v2", 3): _Rules(topology_v2, 320, 560e6, lambda spacing: _same_extent(spacing, 256**3)),
    ("v2", 2): _Rules(topology_v2, 512, 85e6 * 12 / 2, lambda spacing: _same_extent(spacing, 2048**2)),
    ("v1", 3): _Rules(
        topology_v1,
        320,
        520e6 * BASE_FEATURES / 30,  # v1 measured it with 30 features
        lambda spacing: [round(float(edge)) for edge in 512 * spacing.max() / spacing],
        round_batch=floor,
        input_counts=1,
        lowres_step=1.01,
    ),
}


def _same_extent(spacing: np.ndarray, voxels: int) -> list[int]:
    """A patch of so many voxels, as long in mm along each axis."""
    density = 1 / spacing
    return [round(edge) for edge in density * (voxels / np.prod(density)) ** (1 / len(spacing))]


def target_spacing(fingerprint: Fingerprint) -> np.ndarray:
    """The spacing in mm, (x, y, z), that nnU-Net resamples to.

    The median of each axis; of an axis that is over three times as coarse as the others and has less than a third of
    their voxels, the 10th percentile, but not less than the others' spacing.
    """
    target = np.percentile(fingerprint.spacings, 50, axis=0)
    size = np.percentile(fingerprint.shapes, 50, axis=0)
    worst = _slice_axis(target)
    others = [axis for axis in range(3) if axis != worst]
    coarsest = max(target[others])
    if target[worst] > ANISOTROPY * coarsest and size[worst] * ANISOTROPY < min(size[others]):
        finer = np.percentile(fingerprint.spacings[:, worst], 10)
        target[worst] = finer if finer >= coarsest else coarsest + 1e-5
    return target


def plan_experiment(
    fingerprint: Fingerprint,
    configuration: Configuration = "3d_fullres",
    memory_gb: float = 8.0,
    classes: int = 3,
    rules: Literal["v2", "v1"] = "v2",
) -> Plan:
    """Plan a network and its training.

    Args:
        fingerprint: of the training scans.
        configuration: `3d_fullres` or `2d`.
        memory_gb: GPU memory to plan for; nnU-Net's default 8 stands for what a step then takes on a GPU.
        classes: output channels, background included.
        rules: `v2`, or `v1` (3D alone), which pools an axis further and has a smaller budget.

    Raises:
        InputError: if the memory is too little for any patch, or v1's rules are wanted in 2D.
    """
    if configuration not in CONFIGURATIONS:
        raise InputError(f"configuration '{configuration}' is unknown: give {' or '.join(CONFIGURATIONS)}")
    if rules not in RULES:
        raise InputError(f"rules '{rules}' are unknown: give {' or '.join(RULES)}")
    if rules == "v1" and configuration == "2d":
        raise InputError("nnU-Net v1's rules are here for 3d_fullres alone: take rules v2 for 2d")
    if not memory_gb > 0 or classes < 2:
        raise InputError(f"memory_gb {memory_gb} must be above 0, and classes {classes} at least 2")
    target = target_spacing(fingerprint)
    order = _nnunet_order(target)
    spacing, shape = target[order], _median_shape(fingerprint, target, rules)[order]
    if configuration == "3d_fullres" and shape[0] == 1:
        raise InputError("the scans have a single slice: take configuration 2d")
    dims = slice(1, None) if configuration == "2d" else slice(None)
    search = _Search(_RULES[rules, len(spacing[dims])], memory_gb, classes)
    topology = search.fit(spacing[dims], shape[dims])
    if len(topology.strides) < 2:
        raise InputError(f"the scans are too small to pool ({' x '.join(f'{edge:g}' for edge in shape)} voxels)")
    dataset_voxels = prod(shape) * len(fingerprint.spacings)
    batch_dice = configuration == "2d" or _has_lowres(search, topology, spacing, shape)
    return _assemble(
        configuration, rules, fingerprint, (target, order, shape), topology, search, dataset_voxels, batch_dice
    )


@dataclass(frozen=True)
class _Search:
    """Finds the largest patch for the memory."""

    rules: _Rules
    memory_gb: float
    classes: int

    @property
    def reference(self) -> float:
        return self.rules.reference * self.memory_gb / REFERENCE_MEMORY_GB

    def features(self, topology: Topology) -> tuple[int, ...]:
        return tuple(min(BASE_FEATURES * 2**stage, self.rules.max_features) for stage in range(len(topology.strides)))

    def cost(self, topology: Topology) -> int:
        cost = feature_map_voxels(topology, self.features(topology), self.classes)
        return cost + self.rules.input_counts * prod(topology.patch_size)

    def fit(self, spacing: np.ndarray, shape: np.ndarray) -> Topology:
        """Shrink the patch, always along the axis that covers most of the median scan, until it fits."""
        initial = [min(pair) for pair in zip(self.rules.initial_patch(spacing), shape, strict=True)]
        topology = self.rules.topology(spacing, initial)
        while self.cost(topology) > self.reference:
            patch = list(topology.patch_size)
            cover = [edge / whole for edge, whole in zip(patch, shape, strict=True)]
            axis = max(range(len(patch)), key=lambda axis: (cover[axis], axis))  # of equal ones the last
            # The step is the divisor of the next smaller patch: from 256 that is 32, not 64, so that 224 is tried.
            smaller = patch.copy()
            smaller[axis] -= topology.divisors[axis]
            if smaller[axis] < 1:
                raise InputError(f"no patch fits into {self.memory_gb} GB: give more memory")
            patch[axis] -= self.rules.topology(spacing, smaller).divisors[axis]
            topology = self.rules.topology(spacing, patch)
        return topology

    def batch_size(self, topology: Topology, dataset_voxels: float) -> int:
        """What the memory leaves room for, within 5 % of the data set."""
        fitting = self.rules.round_batch(self.reference / self.cost(topology) * MIN_BATCH)
        share = round(dataset_voxels * MAX_DATASET_SHARE / prod(topology.patch_size))
        return max(min(fitting, share), MIN_BATCH)


def _slice_axis(spacing: np.ndarray) -> int:
    """The coarsest axis of (x, y, z); of equal ones the last, which nnU-Net meets first."""
    return max(range(3), key=lambda axis: (spacing[axis], axis))


def _nnunet_order(spacing: np.ndarray) -> list[int]:
    """Axes in nnU-Net's order: the coarsest, then the others from z to x."""
    worst = _slice_axis(spacing)
    return [worst, *(axis for axis in (2, 1, 0) if axis != worst)]


def _median_shape(fingerprint: Fingerprint, target: np.ndarray, rules: str) -> np.ndarray:
    """Of the resampled images; v1 rounds the median, v2 each shape."""
    shapes = fingerprint.spacings / target * fingerprint.shapes
    return np.round(np.median(shapes, axis=0)) if rules == "v1" else np.median(np.round(shapes), axis=0)


def _has_lowres(search: _Search, topology: Topology, spacing: np.ndarray, shape: np.ndarray) -> bool:
    """Whether nnU-Net adds a low-resolution network; it then takes batch Dice for the full-resolution one.

    The spacing grows by small steps, the fine axes first, until a patch sees enough of the median scan. That network
    is kept if its images are less than half as large.
    """
    whole, voxels = prod(shape), prod(topology.patch_size)
    coarse, median_voxels = spacing.copy(), whole
    while voxels / median_voxels < LOWRES_SHARE:
        fine = coarse.max() / coarse > 2
        coarse[fine if fine.any() else slice(None)] *= search.rules.lowres_step
        lowres_shape = np.round(spacing / coarse * shape)
        median_voxels = prod(spacing / coarse * shape)
        voxels = prod(search.fit(coarse, lowres_shape).patch_size)
    return bool(whole / median_voxels >= 2)


def _assemble(
    configuration: str,
    rules: str,
    fingerprint: Fingerprint,
    geometry: tuple[np.ndarray, list[int], np.ndarray],
    topology: Topology,
    search: _Search,
    dataset_voxels: float,
    batch_dice: bool,
) -> Plan:
    """The plan in our axes, with the rules that need no search."""
    target, order, shape = geometry
    two_d = configuration == "2d"
    back = np.argsort(order)

    def ours(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(([1, *values] if two_d else list(values))[axis] for axis in back)

    patch = topology.patch_size
    dummy_2d = not two_d and max(patch) / patch[0] > ANISOTROPY
    rotation = ROTATION_2D if dummy_2d or two_d else ROTATION_3D
    if two_d and max(patch) / min(patch) > 1.5:
        rotation = ROTATION_LONG_2D
    return Plan(
        configuration=configuration,
        rules=rules,
        spacing=tuple(float(edge) for edge in target),
        median_shape=tuple(float(shape[axis]) for axis in back),
        patch_size=ours(patch),
        batch_size=search.batch_size(topology, dataset_voxels),
        strides=tuple(ours(strides) for strides in topology.strides),
        kernel_sizes=tuple(ours(kernel) for kernel in topology.kernel_sizes),
        features=search.features(topology),
        slice_axis=order[0],
        separate_slices=bool(target.max() / target.min() > ANISOTROPY),
        use_nonzero_mask=fingerprint.relative_size < 0.75,
        dummy_2d=dummy_2d,
        rotation=rotation,
        mirror_axes=tuple(sorted(order[1:] if two_d else order)),
        batch_dice=batch_dice,
        feature_voxels=search.cost(topology),
    )
