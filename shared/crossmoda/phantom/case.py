"""One phantom case: subject, scan and labels, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from monai.transforms import Randomizable

from . import tissues as T
from .geometry import rotation
from .head import Head
from .render import Renderer, Signals, tumour_signals
from .scanner import Scan, acquire, paired_scan, plan_scan

HETEROGENEOUS = {"ldn": 0.8, "etz": 1.5, "ukm": 1.0}  # Tilburg's tumours are the more heterogeneous ones


@dataclass
class Case:
    """A finished case.

    Attributes:
        image: int16 (X, Y, Z).
        parts: uint8: 1 extra-meatal VS, 2 intra-meatal VS, 3 cochlea.
        parcels: uint8, see `anatomy.PARCELS`.
        affine: voxel to RAS mm, 4x4.
        facts: what is known of it (grade, side, volumes, cystic, protocol...), JSON-ready.
    """

    image: np.ndarray
    parts: np.ndarray
    parcels: np.ndarray
    affine: np.ndarray
    facts: dict


class CaseSimulator(Randomizable):
    """Simulates cases of one site, modality and preset; call `set_random_state(seed)` before each.

    Args:
        site: "ldn", "etz" or "ukm".
        modality: "ceT1" or "hrT2".
        preset: "demo" or "full".
        noise: False leaves the scanner's part out (image = scaled noise-free signal as float32), for tests.
        deform: False leaves the subject's smooth deformation out, so that the pose alone maps the atlas to the scan.
        coarsen: see `plan_scan`.

    Attributes:
        head: the subject of the last case.
    """

    def __init__(
        self,
        site: str,
        modality: str,
        preset: str = "demo",
        noise: bool = True,
        deform: bool = True,
        coarsen: int = 1,
    ):
        self.site, self.modality, self.preset = site, modality, preset
        self.noise, self.deform, self.coarsen = noise, deform, coarsen
        self.head: Head | None = None

    def __call__(self, grade: int, volume: float | None = None, tumour: bool = True) -> Case:
        """Simulate one case.

        Args:
            grade: Koos grade 1-4.
            volume: tumour volume in mL; None draws it from the grade's distribution.
            tumour: False renders the same subject without it.

        Returns:
            The case.
        """
        scan, pose, shift = self._place(grade, volume, tumour)
        return self._scan(scan, pose, shift, grade, self.R)

    def paired_target(self, grade: int, seed: int, volume: float | None = None, tumour: bool = True) -> Case:
        """The hrT2 of the subject whose ceT1 `__call__` gives from the same random state, voxel for voxel.

        Head, tumour, pose, grid, and the deviations of the subject's tissues are those of the ceT1; sequence, quality
        and intensity scale are the site's for hrT2. It is taken before gadolinium. Bias field, motion and noise are
        drawn on their own, so nothing but the subject is shared.

        Args:
            grade: as for `__call__`.
            seed: of what is drawn on its own.
            volume: as for `__call__`.
            tumour: as for `__call__`.

        Returns:
            The case.

        Raises:
            ValueError: if the simulator's modality is not ceT1.
        """
        if self.modality != "ceT1":
            raise ValueError("paired_target belongs to a ceT1: make the simulator with modality 'ceT1'")
        scan, pose, shift = self._place(grade, volume, tumour)
        own = np.random.RandomState(np.random.SeedSequence([seed, 1]).generate_state(4))
        return self._scan(paired_scan(own, scan, self.site), pose, shift, grade, own)

    def _place(self, grade: int, volume: float | None, tumour: bool) -> tuple[Scan, np.ndarray, np.ndarray]:
        """Draw the subject (`head`), the planned scan, and the head's pose (rotation, shift in mm)."""
        R = self.R
        side = 1 if R.rand() < 0.5 else -1
        head = Head(R, grade, side, HETEROGENEOUS[self.site], volume, tumour, self.deform)
        self.head = head
        pose = rotation(np.clip([5 * R.randn(), 2 * R.randn(), 3 * R.randn()], -8, 8))
        shift = np.array([4, 8, 8]) * R.randn(3)
        centre = pose @ ((head.ears[1].origin + head.ears[-1].origin) / 2) + shift
        return plan_scan(R, self.site, self.modality, self.preset, centre, pose, self.coarsen), pose, shift

    def _scan(
        self, scan: Scan, pose: np.ndarray, shift: np.ndarray, grade: int, scanner: np.random.RandomState
    ) -> Case:
        """Take a scan of `head`; `scanner` draws what is not the subject's."""
        R, head = self.R, self.head
        contrast = scan.protocol.contrast
        table = scan.protocol.table(T.subject_tissues(R, contrast))
        uptake = head.tumour.uptake
        if self.modality == "hrT2":  # most are taken before gadolinium, some after
            uptake *= float(R.uniform(0.2, 0.6)) if R.rand() < 0.3 else 0.0
        elif not contrast:
            uptake = 0.0
        tumour_table = tumour_signals(scan, uptake, float(1 + 0.04 * np.clip(R.randn(), -2, 2)))
        roll = tuple(int(n) for n in R.randint(0, 40, 3))
        signals = Signals(table, tumour_table, roll)
        image, labels = Renderer(head, scan, pose, shift, signals).render()
        reference = float(table[T.WM if contrast else T.CSF])
        pixels = acquire(scanner, image, scan, reference) if self.noise else (image / reference).numpy()
        voxel = float(np.prod(scan.spacing)) / 1000
        facts = {
            "site": self.site,
            "modality": "ceT1" if contrast else "hrT2",
            "protocol": scan.protocol.name,
            "koos": grade,
            "side": "right" if head.side > 0 else "left",
            "volume_ml": round(float(np.isin(labels.parts, (1, 2)).sum()) * voxel, 4),
            "extra_meatal_ml": round(float((labels.parts == 1).sum()) * voxel, 4),
            "cochleae_ml": round(float((labels.parts == 3).sum()) * voxel, 4),
            "cystic": head.tumour.cystic,
            "uptake": round(uptake, 3),
            # head space (the atlas's mm, but for the subject's deformation) -> scanner coordinates (RAS mm)
            "pose": np.vstack([np.column_stack([pose, shift]), [0, 0, 0, 1]]).round(9).tolist(),
        }
        return Case(pixels, labels.parts, labels.parcels, scan.affine, facts)
