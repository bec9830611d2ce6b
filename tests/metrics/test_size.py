import math

import numpy as np
import pytest

from crossmoda.metrics import TumourSize, growth, tumour_size


def ball(radius, spacing, shape=(60, 60, 60), centre=(0.0, 0.0, 0.0)):
    axes = [(np.arange(n) - (n - 1) / 2) * step - c for n, step, c in zip(shape, spacing, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.4, 0.6, 1.5)], ids=str)
def test_ball(spacing):
    size = tumour_size(ball(9.0, spacing), spacing)
    assert size.volume_mm3 == pytest.approx(4 / 3 * math.pi * 9**3, rel=0.01)
    assert size.volume_ml == size.volume_mm3 / 1000
    assert size.diameter_mm == pytest.approx(18, abs=max(spacing))
    assert size.axial_diameter_mm == pytest.approx(18, abs=max(spacing[:2]))


def test_box_by_hand():
    mask = np.zeros((12, 12, 8), dtype=bool)
    mask[2:6, 3:6, 1:5] = True  # 4 x 3 x 4 voxels of 1 x 2 x 3 mm
    size = tumour_size(mask, (1.0, 2.0, 3.0))
    assert size.volume_mm3 == 48 * 6
    # The outline's corners are (+-2, +-2) and, between the outer voxels' centres along x, (+-1.5, +-3) mm.
    assert size.axial_diameter_mm == pytest.approx(math.hypot(3, 6))
    assert math.hypot(3, 4, 9) < size.diameter_mm < math.hypot(4, 6, 12)


def test_axial_diameter_is_of_one_slice():
    mask = np.zeros((30, 30, 6), dtype=bool)
    mask[2:5, 2:5, 1] = mask[22:25, 22:25, 3] = True  # far apart, in two slices
    size = tumour_size(mask, (1.0, 1.0, 1.0))
    assert size.axial_diameter_mm < 4.3
    assert size.diameter_mm > 28


def test_one_voxel_and_none():
    mask = np.zeros((5, 5, 5), dtype=bool)
    assert tumour_size(mask, (1.0, 1.0, 1.0)) == TumourSize(0.0, 0.0, 0.0)
    mask[0, 4, 2] = True  # at the border
    size = tumour_size(mask, (1.0, 1.0, 1.0))
    assert (size.volume_mm3, size.axial_diameter_mm, size.diameter_mm) == (1, 1, 1)


def test_growth_by_hand():
    first, second = TumourSize(1000.0, 14.0, 15.0), TumourSize(2000.0, 18.0, 19.0)
    result = growth(first, second, 2 * 365.25)
    assert result.years == 2
    assert result.mm_a_year == pytest.approx(2)
    assert result.volume_percent == pytest.approx(100)
    assert result.doubling_years == pytest.approx(2)
    assert growth(second, first, 365.25).doubling_years == pytest.approx(-1)
    assert growth(first, first, 100).doubling_years == math.inf


def test_growth_needs_order_and_tumours():
    size = TumourSize(1000.0, 14.0, 15.0)
    with pytest.raises(ValueError, match="the second must be the later one"):
        growth(size, size, 0)
    with pytest.raises(ValueError, match="empty mask"):
        growth(size, TumourSize(0.0, 0.0, 0.0), 100)
