"""Where the inner ears are: a coarse registration, and the part of the scan that is worth segmenting."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep

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
    min_size: Sequence[int] = (1, 1, 1),
) -> tuple[slice, ...]:
    """The scan's voxels that hold a box of MNI space, whatever way the scan lies.

    Args:
        shape: voxels of the scan (X, Y, Z).
        scan_to_mni: voxel index to MNI mm, 4x4.
        box: low and high corner in MNI mm.
        min_size: voxels an axis has at least, as far as the scan has them; the box is in the middle of them, as far as
            the scan goes on there.

    Returns:
        One slice an axis, inside the scan: the smallest that hold every voxel which the box touches. Empty along an
        axis if the box lies beside the scan.
    """
    corners = np.array([(*corner, 1.0) for corner in product(*zip(*box, strict=True))]).T
    index = (np.linalg.inv(scan_to_mni) @ corners)[:3]
    starts = np.ceil(index.min(1) - 0.5).astype(int)  # a voxel reaches half an edge to each side of its centre
    stops = np.floor(index.max(1) + 0.5).astype(int) + 1
    out = []
    for start, stop, size, wanted in zip(starts.tolist(), stops.tolist(), shape, min_size, strict=True):
        start, stop = max(start, 0), min(stop, size)
        if start >= stop:
            out.append(slice(0, 0))
            continue
        length = min(max(stop - start, wanted), size)
        start = min(max(start - (length - (stop - start)) // 2, 0), size - length)
        out.append(slice(start, start + length))
    return tuple(out)


class BackgroundCrop(Crop):
    """MONAI's `Crop`, whose inverse pads class probabilities with background instead of zeros.

    Items of several channels get 1 in channel 0 and 0 in the others; an item of one channel gets 0.
    """

    def inverse(self, img: MetaTensor) -> MetaTensor:
        """Pad to the size before the crop."""
        cropped = self.get_most_recent_transform(img)[TraceKeys.EXTRA_INFO]["cropped"]
        out = super().inverse(img)
        if out.shape[0] > 1:
            for axis in range(3):
                background = out.as_tensor()[0].movedim(axis, 0)  # a view
                before, after = (int(n) for n in cropped[2 * axis : 2 * axis + 2])
                background[:before] = 1
                background[len(background) - after :] = 1
        return out


class LocaliseEarsd(MapTransform, InvertibleTransform):
    """Crops scans to the surroundings of both inner ears, found by registering the first item to MNI152.

    The registration is `register`'s search alone (rigid, seconds, good to some mm) with its rules of failure. The crop
    runs along the scan's own axes and resamples nothing. MONAI's crops need a place or a mask; its bundles train a
    second network to find one.

    A scan that cannot be registered, or that does not show both cochleae, stays whole; a warning says why, and so does
    the image's `meta["localisation"]`, which else names the region. See `BackgroundCrop` for the inverse. The transform
    belongs after those that normalise by the whole scan's intensities.

    Args:
        keys: items (C, X, Y, Z), MetaTensors on one grid; the first channel of the first item present is registered.
        box: low and high corner of the region in MNI mm (RAS).
        min_size: voxels kept along each axis at least, as far as the scan has them: those of the sliding window, which
            would else see padding in place of the scan.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        box: Sequence[Sequence[float]] = EARS_BOX,
        min_size: Sequence[int] | int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        corners = np.asarray(box, dtype=float)
        if corners.shape != (2, 3) or not (corners[0] < corners[1]).all():
            raise ValueError(f"box {box}: a low and a high corner in mm are needed")
        self.box = corners
        self.min_size = ensure_tuple_rep(min_size, 3)
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
        if failure:
            scan = d[first].meta.get("filename_or_obj", "a scan")
            logger.warning("%s: inner ears not found (%s), the whole scan is segmented", scan, failure)
        note = f"whole scan: {failure}" if failure else "voxels " + ", ".join(f"{s.start}:{s.stop}" for s in region)
        for key in self.key_iterator(d):
            if tuple(d[key].shape[1:]) != shape:
                raise ValueError(f"{key} has the shape {tuple(d[key].shape[1:])}, {first} {shape}")
            d[key] = self.crop(d[key], region)
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
        return box_in_scan(shape, scan_to_mni, self.box, self.min_size), ""
