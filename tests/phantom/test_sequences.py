"""Contrasts of the four sequences: the signal equations and the rendered, noise-free image against one table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.phantom import sequences
from crossmoda.phantom import tissues as T
from crossmoda.phantom.anatomy import GRID
from crossmoda.phantom.head import Head
from crossmoda.phantom.render import Renderer, Signals, tumour_signals
from crossmoda.phantom.scanner import plan_scan

TISSUES = T.ENHANCED | {"native": T.VS_NATIVE, "weak": T.VS_WEAK}
# Signals at 1.5 T from an independent calculation with literature-typical PD, T1 and T2: MPRAGE and FFE relative to
# white matter, CISS and TSE relative to CSF.
TABLE = {
    T.WM: (1.00, 1.00, 0.32, 0.20),
    T.GM: (0.80, 0.79, 0.30, 0.32),
    T.CSF: (0.25, 0.27, 1.00, 1.00),
    T.FLUID: (0.31, 0.32, 0.86, 1.07),
    "native": (0.69, 0.69, 0.28, 0.35),
    T.VS: (1.68, 1.72, 0.58, 0.33),
    "weak": (1.27, 1.28, 0.47, 0.36),
    T.CYST: (0.40, 0.41, 0.74, 1.14),
    T.FAT: (2.19, 2.30, 0.66, 0.21),
    T.MARROW: (1.27, 1.32, 0.31, 0.06),
    T.MUSCLE: (0.82, 0.83, 0.16, 0.03),
    T.MUCOSA: (1.54, 1.55, 0.50, 0.28),
    T.VESSEL: (2.19, 2.33, 0.86, 0.51),
    T.BONE: (0, 0, 0, 0),
    T.AIR: (0, 0, 0, 0),
}
PROTOCOLS = ("MPRAGE", "FFE", "CISS", "TSE")
VOLUME = 3.0  # mL, of the rendered tumour
SCANS = {"MPRAGE": ("ldn", "ceT1"), "FFE": ("etz", "ceT1"), "CISS": ("ldn", "hrT2"), "TSE": ("etz", "hrT2")}


@pytest.mark.parametrize("column", range(4), ids=PROTOCOLS)
@pytest.mark.parametrize("tissue", TABLE)
def test_equations_give_the_table(tissue, column):
    protocol = sequences.PROTOCOLS[PROTOCOLS[column]]
    reference = protocol.signal(T.ENHANCED[T.WM if protocol.contrast else T.CSF])
    # half a unit of the table's last digit besides
    assert protocol.signal(TISSUES[tissue]) / reference == pytest.approx(TABLE[tissue][column], rel=0.15, abs=0.005)


def test_spoiled_gre_is_largest_at_the_ernst_angle():
    white = T.ENHANCED[T.WM]
    ernst = np.rad2deg(np.arccos(np.exp(-25 / white.t1)))
    at = [sequences.spoiled_gre(white, 25, 1.82, angle) for angle in (ernst - 1, ernst, ernst + 1)]
    assert at[1] == max(at)


def test_bssfp_approaches_its_limit_for_short_tr():
    """On resonance and TR << T1, T2: S = PD sin a / (1 + cos a + (1 - cos a) T1/T2)."""
    tissue, a = T.Tissue(1.0, 1000, 100), np.deg2rad(60)
    limit = np.sin(a) / (1 + np.cos(a) + (1 - np.cos(a)) * 10)
    assert sequences.bssfp(tissue, 0.1, 0.0, 60) == pytest.approx(limit, rel=0.01)


def test_ciss_fills_the_bands_of_bssfp():
    csf = T.ENHANCED[T.CSF]
    phases = np.linspace(0, 2 * np.pi, 33)
    plain = [sequences.bssfp(csf, 9.4, 4.23, 60, phase) for phase in phases]
    filled = [sequences.ciss(csf, 9.4, 4.23, 60, phase) for phase in phases]
    assert min(plain) < 0.05 * max(plain)
    assert min(filled) > 0.7 * max(filled)


def test_mprage_agrees_with_its_short_form():
    for tissue in (T.CSF, T.GM, T.VS):
        ratios = []
        for equation in (sequences.mprage, sequences.mprage_short):
            times = {"tr": 1900, "te": 2.97, "ti": 1100}
            ratios.append(equation(T.ENHANCED[tissue], **times) / equation(T.ENHANCED[T.WM], **times))
        assert ratios[0] == pytest.approx(ratios[1], rel=0.28)


@pytest.fixture(scope="module")
def head(atlas) -> Head:
    """A head whose tumour is of solid, even tissue."""
    head = Head(np.random.RandomState(11), 4, 1, volume=VOLUME)
    head.tumour.cystic, head.tumour.mixture = False, 0.0
    return head


def _interiors(head: Head, renderer: Renderer) -> dict:
    """Voxels well inside one tissue, from the head's geometry alone (nearest voxels of the atlas, distances)."""
    points = renderer.points(np.zeros(3, int), np.array(renderer.scan.shape), 1, 1)
    ear, shell = head.ears[1], head.shell(points)
    local = ear.to_local(points)
    brain = GRID.sample(torch.stack([head.atlas.wm, head.atlas.gm]), head.brain(points)).numpy()
    cranial = head.intracranial(points)
    depth = head.tumour.distance(points, cranial, head.brainstem(points)).numpy()
    away_from_ear = (torch.minimum(ear.labyrinth(local), ear.cochlea(local)) > 4) & (ear.canal(local) > 4)
    away_from_ear, cranial = away_from_ear.numpy(), cranial.numpy()

    def pure(labels: np.ndarray, tissue: int) -> np.ndarray:
        return GRID.sample(torch.from_numpy(labels == tissue).float()[None], shell)[0].numpy() > 0.99

    rest = (cranial < -1) & (depth > 1)
    nerves = ear.nerves(local).numpy()
    masks = {
        T.WM: ndimage.binary_erosion((brain[0] > 0.98) & rest),
        T.GM: ndimage.binary_erosion((brain[1] > 0.9) & rest),
        T.CSF: ndimage.binary_erosion((brain.sum(0) < 0.01) & rest & (nerves > 1) & pure(head.atlas.inside, T.CSF)),
        T.VS: depth < -1.2,
        T.FLUID: ((ear.labyrinth(local) < -0.8) | (ear.cochlea(local) < -0.6)).numpy(),
    }
    for tissue in (T.FAT, T.MARROW, T.MUSCLE, T.BONE, T.AIR):
        outside = pure(head.atlas.outside, tissue) & (cranial > 2) & away_from_ear
        masks[tissue] = ndimage.binary_erosion(outside, iterations=2)
    return masks


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rendered_tissues_have_the_contrast_of_the_table(head, name):
    """66 x 66 x 30 mm around an ear; every tissue's interior within 15 % of the table."""
    site, modality = SCANS[name]
    centre = head.ears[1].origin
    scan = plan_scan(np.random.RandomState(0), site, modality, "demo", centre, np.eye(3))
    assert scan.protocol.name == name
    shape, spacing = (110, 110, 50), 0.6
    affine = np.diag([spacing, spacing, spacing, 1])
    affine[:3, 3] = centre - spacing * (np.array(shape) - 1) / 2
    scan = replace(scan, shape=shape, spacing=(spacing,) * 3, affine=affine, fine=(1, 1), ear_fine=(1, 1))
    contrast = scan.protocol.contrast
    table = scan.protocol.table(T.ENHANCED if contrast else T.NATIVE)
    signals = Signals(table, tumour_signals(scan, 1.0 if contrast else 0.0))
    renderer = Renderer(head, scan, np.eye(3), np.zeros(3), signals)
    image, labels = renderer.render()
    image = image.numpy() / table[T.WM if contrast else T.CSF]
    assert np.isin(labels.parts, (1, 2)).sum() * spacing**3 == pytest.approx(VOLUME * 1000, rel=0.1)
    for tissue, mask in _interiors(head, renderer).items():
        assert mask.sum() >= 30, f"tissue {tissue} has no interior here"
        wanted = TABLE["native" if tissue == T.VS and not contrast else tissue][PROTOCOLS.index(name)]
        assert image[mask].mean() == pytest.approx(wanted, rel=0.15, abs=0.005), f"tissue {tissue}"
