"""The MNI152 template on the grid of Li 2021."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from .volumes import Volume

TEMPLATE_SHAPE = (512, 512, 128)  # Li 2021, 3.2
TEMPLATE_SPACING = (0.377, 0.447, 1.508)  # mm, Li 2021, 3.2
# Li 2021's field of view, 193 x 229 x 193 mm, is that of the ICBM 2009c grid, whose first voxel centre lies here (mm).
ICBM_2009C_ORIGIN = (-96.0, -132.0, -78.0)
ICBM_2009C_SHAPE = (193, 229, 193)
MASK_MARGIN = 6.0  # mm around the brain in which the template counts


def template_affine(
    shape: tuple[int, int, int] = TEMPLATE_SHAPE, spacing: tuple[float, float, float] = TEMPLATE_SPACING
) -> np.ndarray:
    """Voxel-to-world matrix (RAS mm) of a grid centred on the field of view of the ICBM 2009c template."""
    centre = np.array(ICBM_2009C_ORIGIN) + (np.array(ICBM_2009C_SHAPE) - 1) / 2
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre - np.array(spacing) * (np.array(shape) - 1) / 2
    return affine


@lru_cache(maxsize=1)
def mni152() -> Volume:
    """The MNI152 T1 of nilearn (ICBM 2009a, nonlinear, symmetric, 1 mm) and the mask in which it counts.

    The template is skull-stripped: outside the brain its values are 0. It shows the brain's outer surface, but no
    skull or scalp that a whole-head scan could be matched to. The mask is therefore the brain and a margin of 6 mm:
    wide enough for the step from brain to CSF and bone, too narrow for scalp.
    """
    folder = Path(find_spec("nilearn").origin).parent / "datasets" / "data"  # importing nilearn itself takes seconds
    path = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.load(path)
    values = np.asanyarray(image.dataobj).astype(np.float32)
    brain = ndimage.binary_fill_holes(values > 0)
    near = ndimage.distance_transform_edt(~brain) <= MASK_MARGIN
    return Volume(values, image.affine.astype(np.float64), near)


def load_template(
    shape: tuple[int, int, int] = TEMPLATE_SHAPE, spacing: tuple[float, float, float] = TEMPLATE_SPACING
) -> Volume:
    """MNI152 T1 on a grid of the ICBM 2009c field of view, by default that of Li 2021.

    Args:
        shape: voxels (X, Y, Z).
        spacing: mm.

    Returns:
        Values float32 0..255 (0 outside the brain: the template is skull-stripped), affine (RAS mm) and the mask of
        brain and 6 mm around it.
    """
    source, affine = mni152(), template_affine(shape, spacing)
    index = np.linalg.inv(source.affine) @ affine  # both grids are parallel to the axes
    options = {"offset": index[:3, 3], "output_shape": shape, "order": 1}
    values = ndimage.affine_transform(source.values, np.diag(index[:3, :3]), **options)
    mask = ndimage.affine_transform(source.mask.astype(np.float32), np.diag(index[:3, :3]), **options) >= 0.5
    return Volume(values, affine, mask)
