"""Structures of a parcellation as further classes of a label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import LoadImage, MapTransform


class AddStructuresd(MapTransform):
    """Adds structures of a parcellation to a label map, where that is background; the parcellation is dropped.

    A network that segments brainstem and cerebellum beside the tumour shows where the tumour touches them (methods of
    Koos grading). MONAI's `MapLabelValued` leaves unlisted ids as they are, and merges no two files.

    Args:
        keys: label maps (1, X, Y, Z) as loaded, not yet moved to another grid.
        parcellation_key: path of a parcellation on the same grid.
        structures: for each class to add the ids of the parcellation that make it up.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        parcellation_key: str,
        structures: Mapping[int, Sequence[int]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.parcellation_key = parcellation_key
        self.structures = {int(label): torch.tensor(list(ids)) for label, ids in structures.items()}
        self.load = LoadImage(image_only=True, ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the structures."""
        d = dict(data)
        parcels = self.load(d.pop(self.parcellation_key)).as_tensor()
        for key in self.key_iterator(d):
            label = d[key].clone()
            free = label == 0
            for number, ids in self.structures.items():
                label[free & torch.isin(parcels, ids.to(parcels.dtype)).to(free.device)] = number
            d[key] = label
        return d
