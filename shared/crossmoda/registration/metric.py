"""Similarity of two images at many poses at once, on few sample points: what the search for a start needs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .volumes import Volume

CHUNK = 4_000_000  # samples at once: some 100 MB


class SampledMutualInformation:
    """Mutual information of a moving image with a fixed one at the fixed image's sample points.

    Values are binned by rank above the background, which has a bin of its own (ceT1 and hrT2 have long bright tails
    that would squeeze the brain into one of equally wide bins). The result is in nats, less the bias
    (bins - 1)^2 / 2n that n independent samples show (Miller 1955), so that unrelated images score 0 whatever their
    overlap. itk's and elastix' metrics judge one pose a call and cannot rank thousands.

    Args:
        fixed: sampled at each voxel of its mask.
        moving: interpolated linearly.
        bins: number of bins on each side.
    """

    def __init__(self, fixed: Volume, moving: Volume, bins: int = 32):
        points, values = fixed.points()
        self.bins = bins
        self.points = torch.from_numpy(np.vstack([points, np.ones_like(points[:1])])).float()
        self.fixed_bins = torch.from_numpy(_rank_bins(values, bins))
        binned = _rank_bins(moving.values, bins)
        # Interpolating the binned image (0..bins-1, continuous) saves a look-up for every sample.
        self.moving = torch.from_numpy(binned.astype(np.float32)).permute(2, 1, 0)[None, None].contiguous()
        self.world_to_voxel = torch.from_numpy(np.linalg.inv(moving.affine)).float()
        self.size = torch.tensor(moving.values.shape).float()

    def __call__(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Judge poses.

        Args:
            poses: fixed world to moving world, (K, 4, 4).

        Returns:
            Mutual information (K,) in nats and the share (K,) of the samples inside the moving image.
        """
        step = max(1, CHUNK // max(self.points.shape[1], 1))
        parts = [self._judge(poses[n : n + step]) for n in range(0, len(poses), step)]
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def _judge(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps = (self.world_to_voxel @ torch.from_numpy(np.asarray(poses)).float())[:, :3]
        voxel = maps @ self.points  # (K, 3, N)
        scale = (2 / (self.size - 1).clamp_min(1))[None, :, None]
        grid = (voxel * scale - 1).permute(0, 2, 1)
        inside = (grid.abs() <= 1).all(-1)
        sampled = F.grid_sample(self.moving, grid.reshape(1, 1, 1, -1, 3), mode="bilinear", align_corners=True)
        moving_bins = sampled.reshape(inside.shape).round().long()
        count, size = len(poses), self.bins**2
        index = torch.arange(count)[:, None] * size + self.fixed_bins * self.bins + moving_bins
        joint = torch.bincount(index[inside], minlength=count * size).reshape(count, self.bins, self.bins)
        return _information(joint.double()).numpy(), inside.float().mean(1).numpy()


def _information(joint: torch.Tensor) -> torch.Tensor:
    """Mutual information (K,) of joint counts (K, B, B), less the bias of independent samples."""
    n = joint.sum((1, 2)).clamp_min(1)
    rows, columns = joint.sum(2), joint.sum(1)

    def entropy(counts: torch.Tensor) -> torch.Tensor:
        p = counts.flatten(1) / n[:, None]
        return -torch.special.xlogy(p, p).sum(1)

    free = ((rows > 0).sum(1) - 1).clamp_min(0) * ((columns > 0).sum(1) - 1).clamp_min(0)
    return entropy(rows) + entropy(columns) - entropy(joint) - free / (2 * n)


def _rank_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Bins of equal counts above the darkest bin, which holds the background; int64, 0 to at most bins - 1."""
    low, high = np.percentile(values, (1, 99.8))
    bright = values[values > low + 0.05 * (high - low)]
    if not bright.size:
        return np.zeros(values.shape, np.int64)
    edges = np.unique(np.quantile(bright, np.linspace(0, 1, bins)[:-1]))
    return np.searchsorted(edges, values, side="right")
