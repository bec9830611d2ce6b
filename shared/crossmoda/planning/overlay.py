"""A plan as an overlay of the bundle `segmentation-3d`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossmoda.errors import InputError
from crossmoda.planning.plan import Plan


def plan_overlay(plan: Plan, origin: str = "") -> str:
    """A commented YAML overlay with the entries that the bundle's configs call the plan.

    Args:
        plan: from `plan_experiment`.
        origin: what it was made from, for the head of the file; one line.

    Raises:
        InputError: if the slices lie across another axis than z and the plan treats them for themselves: the
            bundle's augmentation and resampling know slices across z alone.
    """
    two_d = plan.configuration == "2d"
    if plan.slice_axis != 2 and (two_d or plan.dummy_2d or plan.separate_slices):
        raise InputError(
            f"the scans' slices lie across {'xyz'[plan.slice_axis]}, the bundle segments slices across z:"
            " resample the scans first"
        )
    lines = _head(plan, origin)
    for key, value, comment in _entries(plan, two_d):
        lines.append(f"{key}: {_yaml(value)} # {comment}")
    return "\n".join(lines) + "\n"


def _head(plan: Plan, origin: str) -> list[str]:
    shape = " x ".join(f"{edge:g}" for edge in plan.median_shape)
    return [
        f"# Plan of nnU-Net's {plan.configuration} configuration by the rules of its version {plan.rules[1:]}, made by",
        f"# scripts/plan_nnunet.py{' from ' + origin if origin else ''}. On top of train.yaml, inference.yaml and",
        "# evaluate.yaml of bundle segmentation-3d, before phantom.yaml. All along x, y, z, finest stage first.",
        f"# The median scan has {shape} voxels after resampling; a patch's feature maps {plan.feature_voxels:.3g}.",
    ]


def _entries(plan: Plan, two_d: bool) -> list[tuple[str, Any, str]]:
    """Key, value and comment of each line."""
    spacing = [*plan.spacing[:2], -1] if two_d else list(plan.spacing)
    decoder = "$@kernel_sizes[:-1]" if plan.rules == "v2" else "$@kernel_sizes[1:]"
    turned = "about z" if two_d or plan.dummy_2d else "about each axis"
    entries = [
        ("dimensions", 2 if two_d else 3, "2 takes slices, as patches of one slice"),
        ("spacing", spacing, "mm; median of the scans" + (", slices as they are" if two_d else "")),
        ("patch_size", plan.patch_size, "voxels; the largest for the memory, as long in mm along each axis as can be"),
        ("batch_size", plan.batch_size, "what the memory leaves room for, at least 2, within 5 % of the data"),
        ("strides", plan.strides, "halved while at least 8 voxels and the spacing within twice the least"),
        ("kernel_sizes", plan.kernel_sizes, "1 along an axis until its spacing is within twice the least"),
        ("decoder_kernel_sizes", decoder, f"as version {plan.rules[1:]} has them"),
        ("features", plan.features, f"doubled, at most {512 if two_d else 320}"),
        ("deep_supervision_heads", max(len(plan.strides) - 3, 0), "all lower outputs but the lowest, of weight zero"),
        ("batch_dice", plan.batch_dice, "true in 2D, and in 3D where nnU-Net has a low-resolution network too"),
        ("nonzero_mask", plan.use_nonzero_mask, "true where less than 3/4 of the median scan is left after cropping"),
        ("resample_z_nearest", plan.separate_slices, "true where a spacing is more than three times another"),
        ("dummy_2d", two_d or plan.dummy_2d, "in-plane augmentation: a patch more than three times as long as thick"),
        ("rotation", [0.0, 0.0, plan.rotation] if two_d or plan.dummy_2d else 3 * [plan.rotation], f"rad, {turned}"),
        ("mirror_axes", plan.mirror_axes, "of training and inference"),
    ]
    if two_d:
        entries.append(("window_batch", plan.batch_size, "slices at once"))
    return entries


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return repr(round(value, 8))
    if isinstance(value, Sequence):
        return "[" + ", ".join(_yaml(entry) for entry in value) + "]"
    return str(value)
