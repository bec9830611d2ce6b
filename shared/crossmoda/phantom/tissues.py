"""Tissues of the phantom: proton density and relaxation times at 1.5 T, their spread, and contrast uptake.

The numbers are literature-typical values for 1.5 T (PD relative to water, T1 and T2 in ms). Two of them matter most:
CSF must have T2 >= 1.5 s (BrainWeb's 329 ms would make CSF no brighter than brain in balanced SSFP), and gadolinium
about halves the T1 of a vestibular schwannoma (VS) or shortens it further.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

WM, GM, CSF, FLUID, VS, CYST, FAT, MARROW, MUSCLE, MUCOSA, VESSEL, BONE, AIR, DURA, NERVE = range(15)


@dataclass(frozen=True)
class Tissue:
    """One tissue: proton density (relative to water), T1 and T2 in ms."""

    pd: float
    t1: float
    t2: float


# After gadolinium (ceT1). VS has three states of its own, below.
ENHANCED = {
    WM: Tissue(0.70, 640, 78),
    GM: Tissue(0.80, 1000, 95),
    CSF: Tissue(1.00, 4200, 2000),
    FLUID: Tissue(1.00, 3500, 1200),  # perilymph and endolymph
    VS: Tissue(0.85, 400, 90),
    CYST: Tissue(0.97, 2600, 700),
    FAT: Tissue(0.90, 280, 70),
    MARROW: Tissue(0.60, 350, 50),
    MUSCLE: Tissue(0.85, 1000, 40),  # and skin
    MUCOSA: Tissue(0.90, 500, 80),
    VESSEL: Tissue(0.85, 250, 120),  # and dural sinus
    BONE: Tissue(0.05, 300, 0.5),
    AIR: Tissue(0.00, 1000, 1),
    DURA: Tissue(0.70, 500, 60),
    NERVE: Tissue(0.72, 700, 80),
}
VS_NATIVE = Tissue(0.85, 1250, 100)
VS_WEAK = Tissue(0.85, 600, 95)
VS_ENHANCED = ENHANCED[VS]

# What gadolinium changes, before it was given. Blood's own T2 is long; flow takes its signal (see sequences.py).
NATIVE = ENHANCED | {
    VS: VS_NATIVE,
    MUCOSA: Tissue(0.90, 1100, 90),
    VESSEL: Tissue(0.85, 1400, 180),
    DURA: Tissue(0.70, 1000, 50),
}


def between(native: Tissue, enhanced: Tissue, uptake: float) -> Tissue:
    """Mix two states of a tissue by relaxation RATE, which is linear in the gadolinium concentration.

    Args:
        native: the tissue without contrast.
        enhanced: the tissue at uptake 1.
        uptake: 0 (native) to about 1.2 (strongly enhanced).

    Returns:
        The tissue in between.
    """
    r1 = 1 / native.t1 + uptake * (1 / enhanced.t1 - 1 / native.t1)
    r2 = 1 / native.t2 + uptake * (1 / enhanced.t2 - 1 / native.t2)
    return Tissue(native.pd + uptake * (enhanced.pd - native.pd), 1 / r1, 1 / r2)


def subject_tissues(R: np.random.RandomState, contrast: bool, spread: float = 0.04) -> dict[int, Tissue]:
    """Draw one subject's tissues: each of PD, T1 and T2 varies log-normally around the table.

    Args:
        R: source of randomness.
        contrast: True for a scan after gadolinium (ceT1), False for a native scan (hrT2).
        spread: relative standard deviation.

    Returns:
        Tissue id -> tissue. `VS` is given as in the table (the tumour mixes its own states).
    """
    table = ENHANCED if contrast else NATIVE
    factors = np.exp(spread * np.clip(R.randn(len(table), 3), -2, 2))
    tissues = {}
    for (key, tissue), (pd, t1, t2) in zip(sorted(table.items()), factors, strict=True):
        tissues[key] = replace(tissue, pd=tissue.pd * (1 + (pd - 1) / 2), t1=tissue.t1 * t1, t2=tissue.t2 * t2)
    return tissues
