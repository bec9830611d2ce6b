"""The hrT2 of the source subjects on their ceT1's grid: truth of translations, and nothing else changes."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from crossmoda.phantom import CaseSimulator, make_phantom
from crossmoda.phantom.generate import make_paired
from crossmoda.phantom.layout import paired_file

CEREBRUM, CSF = 10, 11


@pytest.fixture(scope="module")
def paired(phantom, tmp_path_factory):
    """A copy of the phantom to which the pairs were added afterwards."""
    root = tmp_path_factory.mktemp("paired") / "phantom"
    shutil.copytree(phantom.root, root)
    make_phantom(root, source=4, target=2, validation=1, seed=3, progress=False, paired=True)
    return root


@pytest.fixture
def sources(phantom):
    return [case for case in phantom.cases if case.section == "source_training"]


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def load(root, case):
    image = nib.load(paired_file(root, case))
    return np.asanyarray(image.dataobj), image.affine


def test_only_the_truth_grows(phantom, paired, sources):
    before, after = contents(phantom.root), contents(paired)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {f"truth/training_source/{case.name}_hrT2.nii.gz" for case in sources}


def test_same_bytes_when_made_again(paired, sources, tmp_path):
    make_paired(sources[1], tmp_path, "demo")
    assert paired_file(tmp_path, sources[1]).read_bytes() == paired_file(paired, sources[1]).read_bytes()


def test_grid_is_that_of_the_ce_t1(phantom, paired, sources):
    for case in sources:
        image, affine = load(paired, case)
        source, source_affine = phantom.load(case, "image")
        assert image.shape == source.shape
        assert np.array_equal(affine, source_affine)
        assert image.dtype == np.int16


def test_contrast_is_that_of_hr_t2(phantom, paired, sources):
    for case in sources:
        image, source = load(paired, case)[0].astype(float), phantom.load(case, "image")[0].astype(float)
        label, parcels = phantom.load(case, "label")[0], phantom.load(case, "parcellation")[0]
        brain = np.median(image[parcels == CEREBRUM])
        assert np.median(image[parcels == CSF]) > 1.5 * brain
        assert np.median(source[parcels == CSF]) < 0.6 * np.median(source[parcels == CEREBRUM])
        assert image[label == 2].mean() > 1.3 * brain  # fluid of the cochlea
        # tumours shine on ceT1 only
        assert source[label == 1].mean() > np.median(source[parcels == CEREBRUM])
        assert image[label == 1].mean() < image[parcels == CSF].mean()


def test_structures_lie_where_the_label_says(phantom, paired, sources):
    """The cochlea is brightest under its label, not some voxels beside it."""
    for case in sources:
        image, label = load(paired, case)[0].astype(float), phantom.load(case, "label")[0] == 2
        means = {
            (dx, dy): image[np.roll(label, (dx, dy), (0, 1))].mean()
            for dx in (-3, -1, 0, 1, 3)
            for dy in (-3, -1, 0, 1, 3)
        }
        best = max(means, key=means.get)
        assert max(map(abs, best)) <= 1
        assert means[0, 0] > 1.1 * max(value for shift, value in means.items() if max(map(abs, shift)) == 3)


def test_noise_is_not_shared(phantom, paired, sources):
    for case in sources:
        image, source = load(paired, case)[0], phantom.load(case, "image")[0]
        air = (slice(0, 12), slice(0, 12))
        assert abs(np.corrcoef(image[air].ravel(), source[air].ravel())[0, 1]) < 0.1


def test_a_target_has_no_pair():
    with pytest.raises(ValueError, match="belongs to a ceT1"):
        CaseSimulator("ldn", "hrT2").paired_target(1, 0)
