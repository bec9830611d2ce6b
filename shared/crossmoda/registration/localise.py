"""Where the inner ears are: a coarse registration, and the part of the scan that is worth segmenting."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform
from monai.utils import TraceKeys

from .register import SEARCH, register
from .template import mni152

logger = logging.getLogger(__name__)

# mm in MNI152, RAS: low and high corner. Li 2021 (3.3) keeps 97 x 57 x 72 mm, the union of all labels of 105 patients,
# and does not say where. open: place and margins. On the phantom all labels lie in x -43..43, y -45..-18, z -49..-29;
# tumours grow from there to the middle, backwards, up and down.
EARS_BOX = ((-60.0, -80.0, -78.0), (60.0, 2.0, -6.0))
COCHLEAE = ((-40.0, -22.0, -42.0), (40.0, -22.0, -42.0))  # open: read off the phantom's labels
NOTE_KEY = "localisation"  # of the image's meta


def box_in_scan(
    shape: Sequence[int],
    scan_to_mni: np.ndarray,
    box: Sequence[Sequence[float]] = EARS_BOX,
) -> tuple[slice, ...]:
    """The scan's voxels that hold a box of MNI space, whatever way the scan lies.

    Args:
        shape: voxels of the scan (X, Y, Z).
        scan_to_mni: voxel index to MNI mm, 4x4.
        box: low and high corner in MNI mm.

    Returns:
        One slice an axis, inside the scan: the smallest that hold every voxel which the box touches. Empty along an
        axis if the box lies beside the scan.
    """
    corners = np.array([(*corner, 1.0) for corner in product(*zip(*box, strict=True))]).T
    index = (np.linalg.inv(scan_to_mni) @ corners)[:3]
    starts = np.ceil(index.min(1) - 0.5).astype(int)  # a voxel reaches half an edge to each side of its centre
    stops = np.floor(index.max(1) + 0.5).astype(int) + 1
    out = []
    for start, stop, size in zip(starts.tolist(), stops.tolist(), shape, strict=True):
        start, stop = max(start, 0), min(stop, size)
        out.append(slice(start, stop) if start < stop else slice(0, 0))
    return tuple(out)


def grown_to_windows(
    region: Sequence[slice], shape: Sequence[int], window_size: Sequence[int], overlap: float
) -> tuple[slice, ...]:
    """The windows of a whole scan that are nearest to a region's voxels.

    Cut to them, a scan is segmented by MONAI's `SlidingWindowInferer` in some of the windows that it would place on the
    whole scan and in no others. Those left out reach into the region with their borders alone, which weigh little in
    Gaussian mode: as much as a window kept where the region ends, 2 % of one an eighth of a window inside.

    Args:
        region: one slice an axis.
        shape: voxels of the scan.
        window_size: voxels.
        overlap: share that neighbouring windows have in common, in [0, 1).

    Returns:
        One slice an axis: from the window whose centre is nearest to the region's first voxel to the last voxel's.
        Empty where the region is.
    """
    out = []
    for part, size, window in zip(region, shape, window_size, strict=True):
        if part.start >= part.stop:
            out.append(slice(0, 0))
            continue
        window = min(window, size)
        step = max(int(window * (1 - overlap)), 1)
        starts = np.minimum(np.arange(0, size - window + step, step), size - window)
        centres = starts + (window - 1) / 2
        first, last = (starts[np.abs(centres - voxel).argmin()] for voxel in (part.start, part.stop - 1))
        out.append(slice(int(first), int(last) + window))
    return tuple(out)


class BackgroundCrop(Crop):
    """MONAI's `Crop`, whose inverse has background wherever a region of the scan is not.

    Items of several channels, class probabilities, get 1 in channel 0 and 0 in the others; those of one channel get 0.
    """

    def __call__(self, img: MetaTensor, slices: tuple[slice, ...], region: tuple[slice, ...]) -> MetaTensor:
        """Cut `slices`, and keep in mind which region within them counts."""
        out = super().__call__(img, slices)
        bounds = [bound for part in region for bound in (part.start, part.stop)]
        out.applied_operations[-1][TraceKeys.EXTRA_INFO]["region"] = bounds
        return out

    def inverse(self, img: MetaTensor) -> MetaTensor:
        """Pad to the size before the crop, background outside the region."""
        bounds = [int(bound) for bound in self.get_most_recent_transform(img)[TraceKeys.EXTRA_INFO]["region"]]
        out = super().inverse(img)
        outside = torch.ones(out.shape[1:], dtype=torch.bool, device=out.device)
        outside[tuple(slice(*bounds[2 * axis : 2 * axis + 2]) for axis in range(3))] = False
        out.as_tensor()[:, outside] = 0
        if out.shape[0] > 1:
            out.as_tensor()[0, outside] = 1
        return out


class LocaliseEarsd(MapTransform, InvertibleTransform):
    """Crops scans to the surroundings of both inner ears, found by registering the first item to MNI152.

    The registration is `register`'s search alone (rigid, seconds, good to some mm) with its rules of failure. The crop
    runs along the scan's own axes and resamples nothing, and it keeps whole windows of the sliding window that comes
    after, so that the labels in the region are those of the whole scan. MONAI's crops need a place or a mask; its
    bundles train a second network to find one.

    A scan that cannot be registered, or that does not show both cochleae, stays whole; a warning says why, and so does
    the image's `meta["localisation"]`, which else names the region. See `BackgroundCrop` for the inverse. The transform
    belongs after those that normalise by the whole scan's intensities.

    Args:
        keys: items (C, X, Y, Z), MetaTensors on one grid; the first channel of the first item present is registered.
        box: low and high corner of the region in MNI mm (RAS).
        window_size: voxels of the sliding window; the crop is of those of its windows on the whole scan that are
            nearest to the region, see `grown_to_windows`. None: of the region alone.
        overlap: of the windows, in [0, 1).
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        box: Sequence[Sequence[float]] = EARS_BOX,
        window_size: Sequence[int] | None = None,
        overlap: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        corners = np.asarray(box, dtype=float)
        if corners.shape != (2, 3) or not (corners[0] < corners[1]).all():
            raise ValueError(f"box {box}: a low and a high corner in mm are needed")
        self.box = corners
        self.window_size = window_size
        self.overlap = overlap
        self.crop = BackgroundCrop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the region in the first item, crop all.

        Raises:
            ValueError: if the items do not have the same shape.
        """
        d = dict(data)
        first = self.first_key(d)
        if first == ():
            return d
        shape = tuple(d[first].shape[1:])
        region, failure = self._find(d[first])
        windows = region
        if self.window_size is not None:
            windows = grown_to_windows(region, shape, self.window_size, self.overlap)
        if failure:
            scan = d[first].meta.get("filename_or_obj", "a scan")
            logger.warning("%s: inner ears not found (%s), the whole scan is segmented", scan, failure)
        note = f"whole scan: {failure}" if failure else "voxels " + ", ".join(f"{s.start}:{s.stop}" for s in region)
        for key in self.key_iterator(d):
            if tuple(d[key].shape[1:]) != shape:
                raise ValueError(f"{key} has the shape {tuple(d[key].shape[1:])}, {first} {shape}")
            d[key] = self.crop(d[key], windows, region)
            d[key].meta[NOTE_KEY] = note
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the items back into the whole scan, background around them."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop.inverse(d[key])
        return d

    def _find(self, image: MetaTensor) -> tuple[tuple[slice, ...], str]:
        """The region, and why it is the whole scan if it is, else ""."""
        shape, affine = image.shape[1:], image.affine.cpu().double().numpy()
        whole = tuple(slice(0, size) for size in shape)
        template = mni152()
        values = image[0].detach().cpu().float().numpy()
        found = register(values, affine, template.values, template.affine, template.mask, backend=SEARCH)
        if found.failure:
            return whole, found.failure
        scan_to_mni = np.array(found.matrix) @ affine
        places = np.linalg.inv(scan_to_mni) @ np.array([(*place, 1.0) for place in COCHLEAE]).T
        if (places[:3].min(1) < -0.5).any() or (places[:3].max(1) > np.array(shape) - 0.5).any():
            return whole, "it does not show both cochleae"
        return box_in_scan(shape, scan_to_mni, self.box), ""
