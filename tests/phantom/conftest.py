"""One small phantom for all tests of this folder, made by one process (the atlas takes about 15 s, once)."""

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch

from crossmoda.phantom import make_phantom
from crossmoda.phantom.anatomy import Atlas, load_atlas
from crossmoda.phantom.layout import PlannedCase, case_files

SEED = 3


class Folder(NamedTuple):
    """A phantom on disk: where it lies and what is in it."""

    root: Path
    cases: list[PlannedCase]

    def load(self, case: PlannedCase, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Voxels and affine of one of a case's files ("image", "label", "parts", "parcellation")."""
        image = nib.load(case_files(self.root, "2022", case)[what])
        return np.asanyarray(image.dataobj), image.affine

    def of_grade(self, section: str, grade: int) -> PlannedCase:
        return next(case for case in self.cases if case.section == section and case.koos == grade)


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    torch.set_num_threads(1)
    return load_atlas()


@pytest.fixture(scope="session")
def phantom(atlas, tmp_path_factory) -> Folder:
    """A phantom of 2022 with two sites: four ceT1 (each grade once), two hrT2 for training, one for validation."""
    root = tmp_path_factory.mktemp("phantom")
    cases = make_phantom(root, source=4, target=2, validation=1, seed=SEED, progress=False)
    return Folder(root, cases)
