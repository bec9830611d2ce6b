"""The scanner: grids of the sites, and what happens between magnetisation and the file.

A noise-free image goes through k-space (acquired matrix smaller than the reconstructed one, which blurs and rings
slightly; a little motion during the phase encoding; complex Gaussian noise, which becomes Rician in the magnitude),
the receive coil's bias field and the scanner's own intensity scale, and ends as int16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from . import sequences
from .geometry import Grid as SmoothGrid
from .geometry import rotation, smooth_noise
from .sequences import Protocol

SITES = ("ldn", "etz", "ukm")
MODALITIES = ("ceT1", "hrT2")
# The hrT2 that a site takes beside its ceT1, and the intensity of the reference tissue in each protocol's files.
PAIRS = {"MPRAGE": sequences.CISS, "FFE": sequences.TSE}
SCALES = {"MPRAGE": 420, "FFE": 640, "CISS": 780, "TSE": 1050}


@dataclass
class Scan:
    """Geometry and settings of one scan.

    Attributes:
        protocol: sequence.
        shape: matrix (columns, rows, slices).
        spacing: mm.
        affine: voxel index to scanner coordinates (RAS mm), 4x4.
        acquired: acquired share of the reconstructed matrix in the two in-plane axes.
        snr: signal-to-noise ratio of the reference tissue (white matter on ceT1, CSF on hrT2).
        scale: intensity of that tissue in the file.
        fine: subsamples a voxel outside the ears (in plane, through plane).
        ear_fine: subsamples a voxel around the ears (in plane, through plane).
    """

    protocol: Protocol
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: np.ndarray
    acquired: tuple[float, float]
    snr: float
    scale: float
    fine: tuple[int, int]
    ear_fine: tuple[int, int]


def _matrix(R: np.random.RandomState, site: str, modality: str, preset: str) -> tuple[tuple, tuple]:
    """Matrix and spacing of one scan; the numbers are the sites' protocols (crossMoDA, and its 2023 release)."""
    ce = modality == "ceT1"
    if site == "ukm":  # routine scans of many scanners: odd matrices, few slices, partial fields of view
        pixel = float(R.choice([0.63, 0.63, 0.70, 0.78, 0.86]))
        thick = float(R.choice([1.5, 1.5, 2.0, 3.0, 3.5]))
        extent = (float(R.choice([182.0, 195.0, 220.0])), float(R.choice([182.0, 220.0])), R.uniform(48, 75))
        if preset == "demo":
            pixel = max(pixel, 0.78)
        shape = (round(extent[0] / pixel / 8) * 8, round(extent[1] / pixel / 8) * 8, max(round(extent[2] / thick), 12))
        return shape, (pixel, pixel, thick)
    if preset == "demo":
        pixel = {"ldn": 0.82, "etz": 0.80}[site]
        return (240, 240, 40), (pixel, pixel, 1.5)
    if site == "ldn":
        return ((512, 512, 120), (0.41015625, 0.41015625, 1.5)) if ce else ((448, 448, 60), (0.5, 0.5, 1.5))
    return ((256, 256, 120), (0.8, 0.8, 1.5)) if ce else ((512, 512, 80), (0.4, 0.4, 1.0))


def plan_scan(
    R: np.random.RandomState,
    site: str,
    modality: str,
    preset: str,
    centre: np.ndarray,
    head: np.ndarray,
    coarsen: int = 1,
) -> Scan:
    """Draw one scan's protocol, grid and quality.

    Args:
        R: source of randomness.
        site: "ldn" (Siemens: MPRAGE, CISS), "etz" (Philips: FFE, TSE) or "ukm" (any).
        modality: "ceT1" or "hrT2".
        preset: "demo" or "full".
        centre: point between the two internal auditory canals in scanner coordinates, mm.
        head: pose matrix; an operator aligns the slices with the head, though not exactly.
        coarsen: pixels along each in-plane axis that become one; the field of view stays (for tests of geometry).

    Returns:
        The scan.
    """
    shape, spacing = _matrix(R, site, modality, preset)
    shape = (shape[0] // coarsen, shape[1] // coarsen, shape[2])
    spacing = (spacing[0] * coarsen, spacing[1] * coarsen, spacing[2])
    ce = modality == "ceT1"
    kind = site if site != "ukm" else str(R.choice(["ldn", "etz"]))
    protocol = {
        ("ldn", True): sequences.MPRAGE,
        ("ldn", False): sequences.CISS,
        ("etz", True): sequences.FFE,
        ("etz", False): sequences.TSE,
    }[kind, ce]
    flips = {"ldn": [-1, -1, 1], "etz": [-1, -1, 1]}.get(site) or [int(R.choice([-1, 1])), int(R.choice([-1, 1])), 1]
    oblique = rotation(np.clip([4 * R.randn(), 1.5 * R.randn(), 1.5 * R.randn()], -9, 9))
    align = head if R.rand() < 0.5 else np.eye(3)
    axes = oblique @ align @ np.diag(flips)
    whole = shape[2] * spacing[2] > 120
    offset = np.array([2 * R.randn(), 12 + 3 * R.randn(), (22 if whole else 1) + 3 * R.randn()])
    if site == "ukm" and shape[1] * spacing[1] < 190:
        offset[1] -= 12
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = centre + offset - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    small = spacing[0] < 0.6
    return Scan(
        protocol=protocol,
        shape=shape,
        spacing=spacing,
        affine=affine,
        **_quality(R, site, protocol),
        fine=(1, 2),
        ear_fine=(2, 5) if small else (3, 4),
    )


def paired_scan(R: np.random.RandomState, scan: Scan, site: str) -> Scan:
    """The hrT2 that goes with a ceT1: the same grid, the sequence of the same vendor, a quality of its own.

    Args:
        R: source of randomness.
        scan: the ceT1.
        site: its site.

    Returns:
        The hrT2.
    """
    protocol = PAIRS[scan.protocol.name]
    return replace(scan, protocol=protocol, **_quality(R, site, protocol))


def _quality(R: np.random.RandomState, site: str, protocol: Protocol) -> dict[str, Any]:
    """Acquired shares of the matrix, signal-to-noise ratio and intensity scale of one scan."""
    return {
        "acquired": (float(R.uniform(0.72, 0.95)), float(R.uniform(0.65, 0.9))),
        "snr": float(R.uniform(17, 30) if protocol.contrast else R.uniform(32, 58)) * (0.85 if site == "ukm" else 1.0),
        "scale": float(SCALES[protocol.name]) * R.uniform(0.8, 1.25),
    }


def bias_field(R: np.random.RandomState, shape: tuple[int, int, int], strength: float = 0.12) -> torch.Tensor:
    """Multiplicative receive field around 1: smooth noise at a scale of half the field of view, log-normal.

    Args:
        R: source of randomness.
        shape: matrix.
        strength: standard deviation of its logarithm.

    Returns:
        float32 tensor of that shape.
    """
    coarse = SmoothGrid((0, 0, 0), (15, 15, 7), 1.0)
    field = smooth_noise(R, coarse, 8.0)
    field = torch.nn.functional.interpolate(field[None], size=shape, mode="trilinear", align_corners=True)[0, 0]
    return torch.exp(strength * (field - field.mean()) / field.std().clamp_min(0.3))


def _window(size: int, share: float) -> torch.Tensor:
    """k-space weights of one axis: 1 in the acquired centre, rolled off at its edge, 0 beyond; in FFT order."""
    k = torch.fft.fftfreq(size).abs() * 2 / share
    roll = 0.5 + 0.5 * torch.cos(torch.pi * ((k - 0.8) / 0.2).clamp(0, 1))
    return torch.where(k <= 1, roll, torch.zeros(()))


def _motion(R: np.random.RandomState, size: int, pixel: float) -> torch.Tensor:
    """Phase factors of a slow drift of the head (tenths of a mm) over the phase-encoding lines, in FFT order."""
    time = np.arange(size) / size
    drift = R.uniform(0, 0.25) * np.sin(2 * np.pi * (R.uniform(0.5, 3) * time + R.rand()))
    phase = 2 * np.pi * np.fft.fftfreq(size) * np.fft.ifftshift(drift) / pixel
    return torch.from_numpy(np.exp(1j * phase)).to(torch.complex64)


def acquire(R: np.random.RandomState, image: torch.Tensor, scan: Scan, reference: float) -> np.ndarray:
    """Turn a noise-free image into what the scanner writes.

    Args:
        R: source of randomness.
        image: magnetisation, float32 (X, Y, Z), not negative; it is changed in place.
        scan: settings.
        reference: magnetisation of the reference tissue.

    Returns:
        int16 array (X, Y, Z), not negative.
    """
    image /= reference
    image *= bias_field(R, scan.shape)
    # Noise lives in the acquired part of k-space only: per-pixel sd is that of all k-space times its weight.
    weight = _window(scan.shape[0], scan.acquired[0])[:, None] * _window(scan.shape[1], scan.acquired[1])[None]
    level = 1 / scan.snr / float(weight.square().mean().sqrt())
    motion = _motion(R, scan.shape[1], scan.spacing[1])[None]
    generator = torch.Generator().manual_seed(int(R.randint(2**31 - 1)))
    out = np.empty(scan.shape, np.int16)
    for z in range(scan.shape[2]):
        k = torch.fft.fft2(image[:, :, z]) * motion
        noise = torch.randn(2, *image.shape[:2], generator=generator) * (level * np.sqrt(k.numel()))
        k += torch.complex(noise[0], noise[1])
        magnitude = torch.fft.ifft2(k * weight).abs()
        out[:, :, z] = (magnitude * scan.scale).round().clamp(0, 32767).to(torch.int16).numpy()
    return out
