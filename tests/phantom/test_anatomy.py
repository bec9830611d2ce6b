"""Where things lie: ears, canals and cisterns in numbers, in heads of several subjects."""

import numpy as np
import pytest
import torch

from crossmoda.phantom import tissues as T
from crossmoda.phantom.anatomy import BRAINSTEM, GRID, PARCELS
from crossmoda.phantom.head import Head

PONS = 1
SIDES = (1, -1)


@pytest.fixture(scope="module")
def heads(atlas) -> list[Head]:
    """Six subjects without tumour."""
    return [Head(np.random.RandomState(seed), 1 + seed % 4, 1, tumour=False) for seed in range(6)]


def column(point: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(point), dtype=torch.float32).reshape(3, 1)


def test_cochlea_lies_in_front_and_lateral_of_the_fundus(heads):
    for head in heads:
        for side in SIDES:
            ear = head.ears[side]
            centre = ear.cochlea_line[:, :3].mean(0)
            lateral, anterior, upwards = centre - np.array([ear.length, 0, 0])
            assert 1.5 < lateral < 6
            assert 1.5 < anterior < 6
            assert abs(upwards) < 3.5
            fundus_to_label = float(ear.cochlea(column([ear.length, 0, 0]))) - ear.cochlea_threshold
            assert 0.5 < fundus_to_label < 4.5
            in_head = ear.to_head(centre)
            assert 33 < side * in_head[0] < 44  # mm from the midline
            assert in_head[1] > ear.to_head([ear.length, 0, 0])[1]


def test_porus_and_canal_have_the_size_of_the_literature(heads):
    for head in heads:
        for side in SIDES:
            ear = head.ears[side]
            assert 20 < side * ear.origin[0] < 30  # mm from the midline
            assert 5.5 <= ear.length <= 11
            grid = torch.stack(torch.meshgrid(*[torch.arange(-12, 12, 0.25)] * 3, indexing="ij"))
            grid[0] += 6
            inside = (ear.canal(grid) < 0) & (grid[0] > 0)
            assert 74 <= float(inside.sum()) * 0.25**3 <= 502  # mm3
            assert 5.5 <= float(grid[1][inside].max() - grid[1][inside].min()) <= 8.5  # opening, mm


def test_canal_runs_in_bone_and_opens_into_the_cistern(heads, atlas):
    """From the porus towards the midline there is CSF before the brainstem; around the canal's middle there is none."""
    for head in heads:
        for side in SIDES:
            ear = head.ears[side]
            for depth in (-1.0, -2.0):
                point = column(ear.to_head([depth, 0, 0]))
                assert float(head.intracranial(point)) < -0.5
                assert float(head.brainstem(point)) > 1
                mapped = head.still_brain(point)
                tissue = GRID.sample(torch.stack([atlas.wm, atlas.gm]), mapped).sum()
                assert float(tissue) < 0.3
                assert int(GRID.sample(torch.from_numpy(atlas.inside).float()[None], mapped, "nearest")) == T.CSF
            middle = ear.length / 2
            for around in ([middle, 4, 0], [middle, -4, 0], [middle, 0, 4], [middle, 0, -4]):
                assert float(head.intracranial(column(ear.to_head(around)))) > 0


def test_labyrinth_lies_in_bone_and_apart_from_the_canal(heads):
    for head in heads:
        for side in SIDES:
            ear = head.ears[side]
            line = torch.from_numpy(ear.cochlea_line[:, :3].T.copy()).float()
            points = torch.from_numpy(ear.origin[:, None] + ear.frame.T @ ear.cochlea_line[:, :3].T).float()
            assert float(head.intracranial(points).min()) > 0.5
            assert float(ear.canal(line).min()) > 0.5


def test_brainstem_is_bathed_in_csf_in_front(phantom):
    """In each column of pons voxels the first voxels in front of it are CSF (or nearly always)."""
    for case in phantom.cases[:4]:
        parcels, affine = phantom.load(case, "parcellation")
        parcels = parcels[:, ::-1] if affine[1, 1] < 0 else parcels  # y forwards
        stem = np.isin(parcels, BRAINSTEM)
        found = []
        for x, z in np.argwhere((parcels == PONS).any(1)):
            front = np.flatnonzero(stem[x, :, z]).max()
            found += parcels[x, front + 1 : front + 3, z].tolist()
        names = [PARCELS.get(value, "none") for value in found]
        assert names.count("subarachnoid CSF") > 0.75 * len(names)


def test_cochlear_fluid_is_bright_and_tumour_grey_on_hrt2(phantom):
    for case in phantom.cases[4:]:
        image, _ = phantom.load(case, "image")
        parts, _ = phantom.load(case, "parts")
        fluid = np.percentile(image[parts == 3], 90)  # thin ducts: most of the label's voxels hold bone besides
        assert fluid > 1.3 * np.median(image[np.isin(parts, (1, 2))])
