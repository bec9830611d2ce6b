"""Tiny scans with a known pose: the MNI template with other contrasts, turned, shifted, cut to a slab."""

from typing import NamedTuple

import itk
import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.registration.search import rigid
from crossmoda.registration.template import mni152

COCHLEAE = np.array([[40, -25, -41, 1], [-40, -25, -41, 1.0]]).T


class Scan(NamedTuple):
    """A scan and the truth."""

    values: np.ndarray
    affine: np.ndarray
    matrix: np.ndarray  # scan world to MNI

    def error(self, matrix) -> float:
        """Mean distance of the cochleae from where they belong, mm."""
        places = np.asarray(matrix) @ np.linalg.inv(self.matrix) @ COCHLEAE
        return float(np.linalg.norm((places - COCHLEAE)[:3], axis=0).mean())


def make_scan(
    parameters: list[float], slab: bool, seed: int = 0, scale: tuple = (1, 1, 1), table: tuple = (0, 0, 0)
) -> Scan:
    """An hrT2-like scan of the template's brain: contrast reversed, head around it, noise; 2 mm, or an 80 mm slab.

    Args:
        parameters: rotation vector (degrees) and shift (mm) of the patient.
        slab: show 80 mm around the ears.
        seed: of the noise.
        scale: the patient's size beside the template's.
        table: where the scanner's coordinates have their origin, mm; patient and slices are shifted together.
    """
    R = np.random.RandomState(seed)
    template = mni152()
    low, shape = np.array([-100.0, -140, -80 if slab else -100]), (100, 120, 40 if slab else 98)
    grid = np.diag([2.0, 2, 2, 1])
    grid[:3, 3] = low
    pose = rigid(np.array([parameters], float), np.array([0, -20, -30.0]))[0]  # MNI to scan world
    pose = pose @ np.diag([*scale, 1.0])
    look = np.linalg.inv(template.affine) @ np.linalg.inv(pose) @ grid  # the operator did not turn the slices along
    brain = ndimage.affine_transform(template.values, look[:3, :3], look[:3, 3], shape, order=1)
    inside = ndimage.affine_transform((template.values > 0) * 1.0, look[:3, :3], look[:3, 3], shape, order=1)
    distance = ndimage.distance_transform_edt(inside < 0.5) * 2
    values = (
        (255 - brain) * inside + 240 * np.exp(-(((distance - 4) / 2) ** 2)) + 90 * ((distance > 9) & (distance < 16))
    )
    values = ndimage.gaussian_filter(values, 0.5) + R.rayleigh(6, shape)
    away = np.eye(4)
    away[:3, 3] = table
    return Scan(values.astype(np.float32), away @ grid, np.linalg.inv(away @ pose))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
