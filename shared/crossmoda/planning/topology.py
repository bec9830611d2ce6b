"""nnU-Net's pooling topology and its estimate of memory, for axes in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

MIN_EDGE = 4  # voxels, the least edge of the deepest feature map


@dataclass(frozen=True)
class Topology:
    """Stages of a U-Net, finest first.

    Attributes:
        patch_size: the patch, padded so that all strides divide it.
        strides: of each stage's first convolution; the first stage has ones.
        kernel_sizes: of each stage's convolutions, 1 or 3 an axis.
        divisors: what each axis of the patch is a multiple of.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of the patch is a multiple of."""
        return tuple(prod(strides) for strides in zip(*self.strides, strict=True))


def topology_v2(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """nnU-Net v2's rule: axes are pooled while their spacing is less than twice the least one that can be pooled.

    An axis is pooled while at least 8 voxels long; one left alone, while at least 12 long. Kernels start as 1 along
    an axis and become 3 once its spacing is less than twice the least; the deepest stage has 3 everywhere.

    Args:
        spacing: mm (or any unit), two or three axes.
        patch_size: voxels; need not be whole.
    """
    axes = range(len(spacing))
    spacing, size = list(spacing), list(patch_size)
    kernel = [1 for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        long_enough = [axis for axis in axes if size[axis] >= 2 * MIN_EDGE]
        finest = min((spacing[axis] for axis in long_enough), default=0.0)
        pooled = [axis for axis in long_enough if spacing[axis] / finest < 2]
        if not pooled or (len(pooled) == 1 and size[pooled[0]] < 3 * MIN_EDGE):
            break
        kernel = [3 if kernel[axis] == 3 or spacing[axis] / min(spacing) < 2 else 1 for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
    return _padded(patch_size, strides, kernels)


def topology_v1(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """nnU-Net v1's rule (planner v2.1): as v2's, but an axis is pooled for itself as far as its own length goes.

    Axes count whose spacing is less than twice the least of all, whether or not that one can still be pooled. Kernels
    are 3 along the axes of the largest group whose spacings lie within a factor of two.

    Args:
        spacing: mm (or any unit), two or three axes.
        patch_size: voxels; need not be whole.
    """
    axes = range(len(spacing))
    spacing, size = list(spacing), list(patch_size)
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        pooled = [axis for axis in axes if spacing[axis] / min(spacing) < 2 and size[axis] >= 2 * MIN_EDGE]
        if not pooled:
            break
        groups = [[axis for axis in axes if 0.5 < spacing[axis] / spacing[own] < 2] for own in axes]
        largest = max(groups, key=len)
        kernels.append(tuple(3 if axis in largest else 1 for axis in axes))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] /= 2
    return _padded(patch_size, strides, kernels)


def _padded(patch_size: Sequence[float], strides: list, kernels: list) -> Topology:
    kernels = [*kernels, tuple(3 for _ in patch_size)]
    divisors = [prod(column) for column in zip(*strides, strict=True)]
    padded = [ceil(size / by) * by for size, by in zip(patch_size, divisors, strict=True)]
    return Topology(tuple(padded), tuple(strides), tuple(kernels))


def feature_map_voxels(topology: Topology, features: Sequence[int], classes: int) -> int:
    """Numbers in all feature maps of nnU-Net's plain U-Net for one patch: its measure of memory.

    Two convolutions a stage on the way down, and two and a transposed one on the way up; the output at full size.
    nnU-Net v1 counts the input's voxels too: add `prod(patch_size)` a channel.

    Args:
        topology: the network's.
        features: of each stage.
        classes: output channels, background included.
    """
    size = topology.patch_size
    total = classes * prod(size)
    deepest = len(features) - 1
    for stage, (strides, channels) in enumerate(zip(topology.strides, features, strict=True)):
        size = [edge // by for edge, by in zip(size, strides, strict=True)]
        total += (2 if stage == deepest else 5) * channels * prod(size)
    return total
