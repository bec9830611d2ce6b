"""The post-processing rules as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from crossmoda.errors import exit_on_input_error
from crossmoda.labels import COCHLEA, VS
from crossmoda.postprocessing.choice import read_rules
from crossmoda.postprocessing.rules import Classes, apply_rules


class PostprocessLabelsd(MapTransform):
    """Clean label maps by rules of `crossmoda.postprocessing`.

    MONAI's `KeepLargestConnectedComponentd` knows one of them; the others need the scan's orientation and spacing.

    Args:
        keys: label maps (1, X, Y, Z); MetaTensors with an affine, others count as RAS of 1 mm.
        rules: names of rules, one after the other, or the path of a JSON that names them
            (`scripts/choose_postprocessing.py` writes it).
        tumour_labels: classes that together are the tumour.
        cochlea_label: class of the cochlea.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rules: Sequence[str] | str,
        tumour_labels: Sequence[int] = (VS,),
        cochlea_label: int = COCHLEA,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rules = exit_on_input_error(read_rules)(rules)
        self.classes = Classes(tuple(tumour_labels), cochlea_label)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean the label maps; dtype, device and affine stay."""
        d = dict(data)
        for key in self.key_iterator(d):
            labels = d[key]
            affine = np.asarray(labels.affine.cpu(), dtype=float) if isinstance(labels, MetaTensor) else np.eye(4)
            cleaned = apply_rules(labels.detach().cpu().numpy()[0], affine, self.rules, self.classes)
            tensor = torch.from_numpy(np.ascontiguousarray(cleaned[None])).to(labels.device)
            d[key] = MetaTensor(tensor).copy_meta_from(labels) if isinstance(labels, MetaTensor) else tensor
        return d
