"""What a translated volume keeps of its source: edges, structures, evenness from slice to slice.

Volumes are (1, X, Y, Z) in [-1, 1], slices along the last axis; the translation lies on the source's grid.
"""

from __future__ import annotations

import torch
from monai.networks.layers import GaussianFilter
from torch.nn import functional as F

from crossmoda.labels import CLASS_NAMES, FOREGROUND
from crossmoda.metrics.distributions import histogram, total_variation

EDGE_SHARE = 0.1
PADDING = 4
RING = 4
LEVELS = 8
STABLE_SHARE = 0.3
STABLE_LIMIT = 0.2
FEWEST_VOXELS = 50


def as_slices(volume: torch.Tensor) -> torch.Tensor:
    """(1, X, Y, Z) -> (Z, 1, X, Y)."""
    return volume.permute(3, 0, 1, 2)


def strongest_edges(volume: torch.Tensor) -> torch.Tensor:
    """Where a volume's in-plane gradient is among its strongest tenth.

    Args:
        volume: (1, X, Y, Z); each slice is smoothed with a Gaussian of one voxel first.

    Returns:
        bool (Z, 1, X, Y).
    """
    # MONAI's filter pads with 0, which would make an edge of the border.
    padded = F.pad(as_slices(volume), (PADDING,) * 4, mode="replicate")
    smooth = GaussianFilter(2, 1.0)(padded)[..., PADDING:-PADDING, PADDING:-PADDING]
    gradient = torch.hypot(*torch.gradient(smooth, dim=(2, 3)))
    count = max(round(EDGE_SHARE * gradient.numel()), 1)
    limit = gradient.flatten().kthvalue(gradient.numel() - count + 1).values
    return (gradient >= limit) & (gradient > 0)  # where most is flat the limit is 0


def edge_agreement(translated: torch.Tensor, source: torch.Tensor) -> dict[str, float]:
    """Whether a translation's edges lie where the source's do.

    Edges are the strongest tenth of the in-plane gradients of each volume, so neither contrast nor sign matters. Two
    edges are the same if their voxels touch. A real hrT2 has edges that its ceT1 lacks (fluid against bone) and the
    other way round: its values, not 1 and 0, are the yardstick.

    Args:
        translated: (1, X, Y, Z).
        source: (1, X, Y, Z).

    Returns:
        `edges_kept`: share of the source's edge voxels that the translation has; `edges_new`: share of the
        translation's edge voxels that the source has not.
    """
    ours, theirs = strongest_edges(translated), strongest_edges(source)
    near_ours, near_theirs = (F.max_pool2d(edges.float(), 3, 1, 1) > 0 for edges in (ours, theirs))
    return {
        "edges_kept": float(near_ours[theirs].float().mean()),
        "edges_new": float((~near_theirs[ours]).float().mean()),
    }


def structure_contrast(image: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """How VS and cochlea stand out from a ring around them.

    Args:
        image: (1, X, Y, Z).
        label: (1, X, Y, Z), classes of `crossmoda.labels`. The ring is the background within `RING` voxels in plane.

    Returns:
        For each structure `contrast_<name>`, the difference of the means inside and in the ring, in per cent of the
        intensity range (negative if it is darker), and `visible_<name>`, the total variation distance of the two
        histograms, in [0, 1]: 0 if it can't be seen. NaN for a structure that the volume does not hold.
    """
    values, classes = as_slices(image), as_slices(label)
    found = {}
    for structure in FOREGROUND:
        inside = classes == structure
        ring = (F.max_pool2d(inside.float(), 2 * RING + 1, 1, RING) > 0) & (classes == 0)
        contrast = visible = float("nan")
        if inside.any() and ring.any():
            contrast = 50 * float(values[inside].mean() - values[ring].mean())
            visible = total_variation(histogram(values[inside]), histogram(values[ring]))
        found[f"contrast_{CLASS_NAMES[structure]}"] = contrast
        found[f"visible_{CLASS_NAMES[structure]}"] = visible
    return found


def slice_flicker(translated: torch.Tensor, source: torch.Tensor) -> float:
    """How much grey levels jump from slice to slice where the source is even (Li 2021, section 5).

    A 2D translator maps each slice on its own, so that the same tissue gets another grey level in each. To leave
    out the change of anatomy, only voxels are looked at whose source hardly changes over three slices: the most even
    `STABLE_SHARE` of each of `LEVELS` grey levels of the source, and none that changes by `STABLE_LIMIT` or more.
    Of these the median of t[z] - (t[z-1] + t[z+1]) / 2 is taken, for each slice and grey level: a slow drift along
    the volume (a coil's field) gives 0, and so do noise and the few voxels where the target's anatomy changes unseen
    by the source. The root mean square over slices and levels, divided by sqrt(3/2), is the standard deviation of
    the offsets if each slice has an independent one.

    Args:
        translated: (1, X, Y, Z).
        source: (1, X, Y, Z).

    Returns:
        Per cent of the intensity range; NaN if the volume has fewer than three slices or nothing even.
    """
    t, s = as_slices(translated), as_slices(source)
    jump = (t[1:-1] - (t[:-2] + t[2:]) / 2).flatten(1)
    change = torch.maximum((s[1:-1] - s[:-2]).abs(), (s[1:-1] - s[2:]).abs()).flatten(1)
    level = ((s[1:-1].clamp(-1, 1) + 1) / 2 * LEVELS).long().clamp(max=LEVELS - 1).flatten(1)
    medians = []
    for z in range(len(jump)):
        for n in range(LEVELS):
            changes, jumps = change[z][level[z] == n], jump[z][level[z] == n]
            if len(changes) < FEWEST_VOXELS:
                continue
            even = changes <= min(float(changes.quantile(STABLE_SHARE)), STABLE_LIMIT)
            if even.sum() >= FEWEST_VOXELS * STABLE_SHARE:
                medians.append(float(jumps[even].median()))
    if not medians:
        return float("nan")
    return 50 * float((torch.tensor(medians).square().mean() / 1.5).sqrt())
