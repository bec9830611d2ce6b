"""Distances between distributions: of intensities, of spatial frequencies, of features."""

from __future__ import annotations

import torch

BINS = 256
CELLS = 32


def histogram(values: torch.Tensor) -> torch.Tensor:
    """Counts of values in [-1, 1] in `BINS` equal bins; values outside go to the outermost bins."""
    return torch.histc(values.clamp(-1, 1), BINS, -1, 1)


def wasserstein(first: torch.Tensor, second: torch.Tensor) -> float:
    """Wasserstein-1 distance of two histograms over [-1, 1], in units of intensity."""
    difference = (first / first.sum()).cumsum(0) - (second / second.sum()).cumsum(0)
    return float(difference.abs().sum()) * 2 / BINS


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Half the L1 distance of two histograms, on `CELLS` cells so that few voxels do not look distinct by chance."""
    first, second = (h.view(CELLS, -1).sum(1) / h.sum() for h in (first, second))
    return float((first - second).abs().sum()) / 2


def probability_brighter(first: torch.Tensor, second: torch.Tensor) -> float:
    """P(X > Y) + P(X = Y) / 2 for X, Y drawn from two histograms (the area under the ROC curve)."""
    first, second = first / first.sum(), second / second.sum()
    below = second.cumsum(0) - second
    return float((first * (below + second / 2)).sum())


def log_power_spectrum(image: torch.Tensor, rings: int = 32) -> torch.Tensor:
    """Log10 of the mean power in rings of equal spatial frequency, up to the Nyquist frequency.

    Args:
        image: (B, 1, H, W); the mean is removed.
        rings: number of rings.

    Returns:
        (B, rings).
    """
    height, width = image.shape[-2:]
    power = torch.fft.fft2(image[:, 0] - image[:, 0].mean((-2, -1), keepdim=True), norm="ortho").abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    ring = (frequency / 0.5 * rings).long().clamp(max=rings)  # the corners beyond Nyquist form one ring more
    ring[0, 0] = rings  # and the removed mean goes there
    index = ring.flatten().expand(len(power), -1)
    sums = torch.zeros(len(power), rings + 1).scatter_add_(1, index, power.flatten(1))
    counts = torch.bincount(ring.flatten(), minlength=rings + 1).clamp(min=1)
    return torch.log10(sums / counts + 1e-8)[:, :rings]


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    r"""Fréchet distance of two sets of feature vectors, each taken as a normal distribution (Heusel 2017).

    $|\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})$, the formula of MONAI's
    `FIDMetric`. MONAI takes the root of the unsymmetric product, which fails or turns complex when there are fewer
    vectors than features; here its trace comes from the symmetric $\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2}$.

    Args:
        first: (N, C), N >= 2.
        second: (M, C), M >= 2.

    Returns:
        The distance, >= 0.
    """
    first, second = first.double(), second.double()
    mean = (first.mean(0) - second.mean(0)).square().sum()
    one, other = (torch.atleast_2d(torch.cov(x.T)) for x in (first, second))
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return max(float(mean + one.trace() + other.trace() - 2 * cross), 0.0)
