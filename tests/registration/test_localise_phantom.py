"""All labels of phantom heads lie in the localised region, whatever the site, the pose and the offset of the header."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.phantom.case import CaseSimulator
from crossmoda.registration import LocaliseEarsd
from crossmoda.registration.localise import NOTE_KEY
from crossmoda.registration.search import rigid

MARGIN = 8.0  # mm around each label that lie in the region too, where the scan goes on

# Two axes, both ways, within what scripts/bench_registration.py adds to the headers.
OFFSETS = ([0, 0, 0, 0, 0, 0], [8.0, -5, 6, 10, -9, 8], [-6.0, 7, -8, -8, 10, -9])


@pytest.mark.slow
@pytest.mark.parametrize("offset", OFFSETS, ids=["as scanned", "one way", "other way"])
@pytest.mark.parametrize(
    ("site", "modality", "coarsen"),
    [
        ("ldn", "ceT1", 2),
        ("ldn", "hrT2", 2),
        ("etz", "ceT1", 1),
        ("etz", "hrT2", 2),
        ("ukm", "ceT1", 1),
        ("ukm", "hrT2", 1),
    ],
)
def test_labels_lie_in_the_region(site, modality, coarsen, offset):
    simulator = CaseSimulator(site, modality, "full", coarsen=coarsen)
    simulator.set_random_state(11)
    case = simulator(4)  # the largest tumours
    affine = rigid(np.array([offset], float), np.zeros(3))[0] @ case.affine
    data = {
        key: MetaTensor(
            torch.from_numpy(np.ascontiguousarray(values[None], np.float32)), affine=torch.from_numpy(affine)
        )
        for key, values in (("image", case.image), ("label", case.parts > 0))
    }
    out = LocaliseEarsd(["image", "label"])(data)
    assert out["image"].meta[NOTE_KEY].startswith("voxels"), out["image"].meta[NOTE_KEY]
    assert out["label"].sum() == data["label"].sum() > 0
    assert out["label"].numel() < 0.6 * data["label"].numel()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    starts, stops = zip(
        *(map(int, part.split(":")) for part in out["image"].meta[NOTE_KEY][7:].split(", ")), strict=True
    )
    index = np.argwhere(data["label"][0].numpy() > 0)
    shape = np.array(case.image.shape)
    before = np.where(np.array(starts) > 0, (index.min(0) - starts) * spacing, np.inf)
    after = np.where(np.array(stops) < shape, (np.array(stops) - 1 - index.max(0)) * spacing, np.inf)
    assert min(before.min(), after.min()) > MARGIN
