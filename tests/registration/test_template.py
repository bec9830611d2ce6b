from pathlib import Path

import nibabel as nib
import nilearn.datasets
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from crossmoda.registration import TEMPLATE_SHAPE, load_template, template_affine
from crossmoda.registration.template import mni152

COCHLEAE = np.array([[40, -25, -41, 1], [-40, -25, -41, 1.0]])  # MNI, mm


@pytest.fixture(scope="module")
def template():
    return load_template()


def test_grid_of_li_2021(template):
    assert template.values.shape == (512, 512, 128)
    np.testing.assert_allclose(template.spacing, [0.377, 0.447, 1.508])
    np.testing.assert_allclose(template.spacing * TEMPLATE_SHAPE, [193, 229, 193], atol=0.2)
    centre = template.affine @ [*(np.array(TEMPLATE_SHAPE) - 1) / 2, 1]
    np.testing.assert_allclose(centre[:3], [0, -18, 18])  # of the ICBM 2009c grid: 193 x 229 x 193 from -96, -132, -78


def test_both_cochleae_lie_well_inside(template):
    voxels = (COCHLEAE @ np.linalg.inv(template.affine).T)[:, :3]
    to_border = np.minimum(voxels, np.array(TEMPLATE_SHAPE) - 1 - voxels) * template.spacing
    assert to_border.min() > 36


def test_values_are_nilearns(template):
    folder = Path(nilearn.datasets.__file__).parent / "data"
    source = nib.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    values = np.asarray(source.dataobj, np.float64)
    index = np.argwhere(template.values[::40, ::40, ::9] > 100) * [40, 40, 9]
    world = index @ template.affine[:3, :3].T + template.affine[:3, 3]
    voxels = nib.affines.apply_affine(np.linalg.inv(source.affine), world)
    axes = [np.arange(n) for n in values.shape]
    np.testing.assert_allclose(
        template.values[tuple(index.T)], RegularGridInterpolator(axes, values)(voxels), atol=0.01
    )
    assert nib.aff2axcodes(template.affine) == ("R", "A", "S")


def test_template_is_skull_stripped(template):
    outside = template.values[~template.mask]
    assert outside.max() < 1  # no scalp: nothing beyond the brain's margin
    assert template.values[template.mask].max() > 200


def test_mask_is_the_brain_and_six_millimetres_around_it():
    volume = mni152()
    brain = volume.values > 0
    assert (volume.mask & brain).sum() == brain.sum()
    for axis in (0, 1):  # the template's grid ends at the brain's lower border
        others = tuple(n for n in range(3) if n != axis)
        brain_extent, mask_extent = np.flatnonzero(brain.any(others)), np.flatnonzero(volume.mask.any(others))
        assert mask_extent[0] == brain_extent[0] - 6
        assert mask_extent[-1] == brain_extent[-1] + 6


def test_other_grids_are_centred_alike():
    affine = template_affine((10, 20, 30), (2.0, 3.0, 4.0))
    np.testing.assert_allclose(affine @ [4.5, 9.5, 14.5, 1], [0, -18, 18, 1])
    assert load_template((16, 16, 16), (12.0, 14.0, 12.0)).values.shape == (16, 16, 16)
