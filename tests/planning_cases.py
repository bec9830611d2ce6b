"""What the tests of planning share: nnU-Net's cases in our axes, our plans in its axes."""

import importlib.util
from pathlib import Path

import numpy as np

from crossmoda.planning import Fingerprint

_spec = importlib.util.spec_from_file_location("record", Path(__file__).parent / "planning" / "record_nnunet_plans.py")
_record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_record)


def to_fingerprint(name, relative_size=1.0):
    """One of the recorded cases, (z, y, x) turned to (x, y, z)."""
    rows = _record.CASES[name]
    return Fingerprint(np.array(rows["spacings"])[:, ::-1], np.array(rows["shapes"])[:, ::-1], relative_size)


def ours_as_nnunet(plan, transpose):
    """The entries of a plan as nnU-Net names them, in its axes."""
    keep = slice(1, None) if plan.configuration == "2d" else slice(None)

    def turned(values):
        reversed_axes = list(values)[::-1]
        return [reversed_axes[axis] for axis in transpose][keep]

    kept = [2 - axis for axis in transpose][keep]
    return {
        "spacing": turned(plan.spacing),
        "median_shape": turned(plan.median_shape),
        "patch_size": turned(plan.patch_size),
        "batch_size": plan.batch_size,
        "strides": [turned(strides) for strides in plan.strides],
        "kernel_sizes": [turned(kernel) for kernel in plan.kernel_sizes],
        "features": list(plan.features),
        "use_mask_for_norm": plan.use_nonzero_mask,
        "batch_dice": plan.batch_dice,
        "rotation": plan.rotation,
        "dummy_2d": plan.dummy_2d,
        "mirror_axes": sorted(kept.index(axis) for axis in plan.mirror_axes),
    }
