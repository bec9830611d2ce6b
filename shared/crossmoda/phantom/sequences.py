"""Signal equations of the scans in crossMoDA: MPRAGE, spoiled gradient echo, CISS and turbo spin echo.

All functions take proton density and times in ms (floats) and give the magnitude of the transverse magnetisation at
the echo, for water at equilibrium = 1. Flip angles are in degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import tissues
from .tissues import Tissue


def spoiled_gre(tissue: Tissue, tr: float, te: float, flip: float) -> float:
    """Spoiled gradient echo (Philips FFE) in the steady state: the Ernst equation."""
    a = np.deg2rad(flip)
    e1 = np.exp(-tr / tissue.t1)
    return tissue.pd * np.sin(a) * (1 - e1) / (1 - e1 * np.cos(a)) * np.exp(-te / tissue.t2)


def mprage(
    tissue: Tissue, tr: float, te: float, ti: float, flip: float = 15.0, pulses: int = 120, spacing: float = 7.0
) -> float:
    """Inversion-prepared gradient-echo train (Siemens MPRAGE), at the pulse that reads the centre of k-space.

    The longitudinal magnetisation is followed through inversion, waiting, `pulses` low flip angle pulses and recovery;
    each step is an affine map of Mz, so the steady state is the fixed point of their composition.

    Args:
        tissue: what is imaged.
        tr: from inversion to inversion, ms.
        te: echo time, ms.
        ti: from the inversion to the centre of the readout train, ms.
        flip: flip angle of the readout pulses, degrees.
        pulses: number of readout pulses; the middle one reads the centre of k-space.
        spacing: time between two readout pulses, ms.

    Returns:
        Signal magnitude.
    """
    a = np.deg2rad(flip)
    before = ti - spacing * (pulses // 2)
    after = tr - before - spacing * pulses
    if before < 0 or after < 0:
        raise ValueError(f"a train of {pulses} x {spacing} ms does not fit around TI {ti} in TR {tr} ms")

    def relax(line: tuple[float, float], time: float) -> tuple[float, float]:
        e = np.exp(-time / tissue.t1)
        return line[0] * e, line[1] * e + 1 - e

    line = relax((-1.0, 0.0), before)  # Mz = line[0] * Mz(start) + line[1]
    at_centre = line
    for n in range(pulses):
        if n == pulses // 2:
            at_centre = line
        line = relax((line[0] * np.cos(a), line[1] * np.cos(a)), spacing)
    line = relax(line, after)
    steady = line[1] / (1 - line[0])
    mz = at_centre[0] * steady + at_centre[1]
    return tissue.pd * np.sin(a) * abs(mz) * np.exp(-te / tissue.t2)


def mprage_short(tissue: Tissue, tr: float, te: float, ti: float, flip: float = 15.0) -> float:
    """MPRAGE without the effect of the readout train: contrasts to white matter up to 22 % below `mprage` (CSF)."""
    inversion = 1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-tr / tissue.t1)
    return tissue.pd * np.sin(np.deg2rad(flip)) * abs(inversion) * np.exp(-te / tissue.t2)


def bssfp(tissue: Tissue, tr: float, te: float, flip: float, phase: float = np.pi) -> float:
    """Balanced SSFP with off-resonance phase `phase` per TR (radians).

    Without RF phase alternation, so that the pass band is centred at pi.
    """
    a = np.deg2rad(flip)
    e1, e2 = np.exp(-tr / tissue.t1), np.exp(-tr / tissue.t2)
    A = 1 - e1 * np.cos(a) - e2**2 * (e1 - np.cos(a))
    B = e2 * (1 - e1) * (1 + np.cos(a))
    m = tissue.pd * (1 - e1) * np.sin(a) * np.abs(1 - e2 * np.exp(-1j * phase)) / (A - B * np.cos(phase))
    return float(m * np.exp(-te / tissue.t2))


def ciss(tissue: Tissue, tr: float, te: float, flip: float, phase: float = np.pi) -> float:
    """CISS: the maximum of two balanced SSFP scans half a band apart, so that no banding remains."""
    return max(bssfp(tissue, tr, te, flip, phase), bssfp(tissue, tr, te, flip, phase + np.pi))


def turbo_spin_echo(tissue: Tissue, tr: float, te: float) -> float:
    """Turbo spin echo at its effective echo time."""
    return tissue.pd * (1 - np.exp(-tr / tissue.t1)) * np.exp(-te / tissue.t2)


@dataclass(frozen=True)
class Protocol:
    """One scan protocol.

    Attributes:
        name: the sequence's name as radiologists say it.
        equation: a signal equation of this module.
        settings: its times (ms) and angles (degrees).
        contrast: whether gadolinium was given before it.
        flow: what flow leaves of the vessels' signal (1: inflow-enhanced or Gd-filled; near 0: flow void).
    """

    name: str
    equation: Callable[..., float]
    settings: dict[str, float] = field(default_factory=dict)
    contrast: bool = True
    flow: float = 1.0

    def signal(self, tissue: Tissue) -> float:
        """Signal of one tissue under this protocol (water at equilibrium = 1)."""
        return float(self.equation(tissue, **self.settings))

    def table(self, subject: dict[int, Tissue]) -> np.ndarray:
        """Signals of all tissues of a subject, indexed by tissue id, float32."""
        signals = np.array([self.signal(subject[key]) for key in sorted(subject)], dtype=np.float32)
        signals[tissues.VESSEL] *= self.flow
        return signals


MPRAGE = Protocol("MPRAGE", mprage, {"tr": 1900, "te": 2.97, "ti": 1100, "flip": 15})
FFE = Protocol("FFE", spoiled_gre, {"tr": 25, "te": 1.82, "flip": 30})
CISS = Protocol("CISS", ciss, {"tr": 9.4, "te": 4.23, "flip": 60}, contrast=False, flow=0.5)
TSE = Protocol("TSE", turbo_spin_echo, {"tr": 2700, "te": 160}, contrast=False, flow=0.1)
PROTOCOLS = {p.name: p for p in (MPRAGE, FFE, CISS, TSE)}
