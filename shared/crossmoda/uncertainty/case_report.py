"""`<case>_seg.json`: what a user should know of one segmentation before relying on it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform

from crossmoda.data import write_text
from crossmoda.engines import last_member_labels
from crossmoda.labels import CLASS_NAMES, COCHLEA, VS
from crossmoda.postprocessing import world_axis
from crossmoda.uncertainty.measures import class_groups, pairwise_dice, predictive_entropy, sides_without, volumes_ml
from crossmoda.uncertainty.reference import Features, read_reference_or_exit, scan_features, unlike_training

FLAGS = ("unsure", "empty_VS", "cochlea_missing_side", "unlike_training")


@dataclass(frozen=True)
class Thresholds:
    """When a case is flagged; all are ours.

    Attributes:
        entropy: `unsure` above this predictive entropy, in [0, 1].
        agreement: `unsure` below this mean pairwise Dice of members in VS or cochlea.
        distance: `unlike_training` beyond this many spreads from the median.
    """

    entropy: float = 0.4
    agreement: float = 0.7
    distance: float = 5.0


def case_report(
    case: str,
    labels: np.ndarray,
    affine: np.ndarray,
    classes: tuple[Sequence[int], int],
    probabilities: np.ndarray | None = None,
    members: Sequence[np.ndarray] = (),
    features: Features | None = None,
    reference: Mapping[str, Any] | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Describe one segmentation.

    Args:
        case: its name.
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        classes: the tumour's classes, and the cochlea's.
        probabilities: class probabilities (C, X, Y, Z); None if they are not known.
        members: label maps of members (on any one grid), for their agreement.
        features: of `scan_features`; None if the scan is not known.
        reference: of the training data; None if not known.
        thresholds: for the flags; None takes the defaults.

    Returns:
        case, flags (some of `FLAGS`), volumes_ml, entropy, agreement, members (their number), cochlea_missing (sides),
        unlike_training (features that stick out, None without a reference), features (with volumes and entropy).
    """
    thresholds = thresholds or Thresholds()
    groups = class_groups(*classes)
    volumes = volumes_ml(labels, affine, groups)
    entropy = None if probabilities is None else predictive_entropy(probabilities, labels)
    agreement = pairwise_dice(members, groups)
    missing = sides_without(labels, affine, classes[1])
    far = None
    if features is not None:
        features = {**features, **{f"{name}_ml": volume for name, volume in volumes.items()}, "entropy": entropy}
        far = unlike_training(features, reference, thresholds.distance) if reference is not None else None
    main = [agreement[CLASS_NAMES[label]] for label in (VS, COCHLEA)] if agreement else []
    raised = {
        "unsure": (entropy or 0) > thresholds.entropy or any(dice < thresholds.agreement for dice in main),
        "empty_VS": volumes[CLASS_NAMES[VS]] == 0,
        "cochlea_missing_side": bool(missing),
        "unlike_training": bool(far),
    }
    return {
        "case": case,
        "flags": [flag for flag in FLAGS if raised[flag]],
        "volumes_ml": volumes,
        "entropy": entropy,
        "agreement": agreement,
        "members": max(1, len(members)),
        "cochlea_missing": missing,
        "unlike_training": far,
        "features": features,
    }


def write_report(report: Mapping[str, Any], output_dir: str | Path) -> None:
    """Write `<output_dir>/<case>_seg.json`, whole or not at all."""
    write_text(json.dumps(report, indent=1) + "\n", Path(output_dir) / f"{report['case']}_seg.json")


class SaveCaseReportd(MapTransform):
    """Write `<output_dir>/<case>_seg.json` beside the label map.

    Args:
        keys: label maps (1, X, Y, Z): MetaTensors in the grid of the raw scan, whose `meta["filename_or_obj"]` is it.
        output_dir: folder of the results.
        inferer: the inference's, for the agreement of its members or mirror images; batches of one.
        tumour_labels: classes that together are the tumour.
        cochlea_label: class of the cochlea.
        reference: JSON of the training data's features; None, or no such file: no case is unlike them.
        thresholds: for the flags: entropy, agreement and distance, see `Thresholds`.
        probabilities_key: item with the class probabilities (C, X, Y, Z) in the grid of the raw scan.
        image_key: item with the scan as the network sees it.
        case_key: item with the case's name.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        inferer: Inferer | None = None,
        tumour_labels: Sequence[int] = (VS,),
        cochlea_label: int = COCHLEA,
        reference: str | Path | None = None,
        thresholds: Mapping[str, float] | None = None,
        probabilities_key: str = "probabilities",
        image_key: str = "image",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.inferer = inferer
        self.classes = tuple(tumour_labels), cochlea_label
        self.reference = read_reference_or_exit(reference)
        self.thresholds = Thresholds(**(thresholds or {}))
        self.probabilities_key = probabilities_key
        self.image_key = image_key
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the report and hand the data on unchanged."""
        for key in self.key_iterator(data):
            write_report(self.report(data, key), self.output_dir)
        return dict(data)

    def report(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """The report of one label map, see `case_report`; nothing is written."""
        raw = nib.load(str(data[key].meta["filename_or_obj"]))
        axes = [world_axis(raw.affine, axis) for axis in range(3)]
        features = scan_features(
            data[self.image_key].detach().cpu().numpy()[0],
            [abs(step) for _, step in axes],
            [raw.shape[axis] for axis, _ in axes],
        )
        return case_report(
            str(data[self.case_key]),
            data[key].detach().cpu().numpy()[0],
            raw.affine,
            self.classes,
            data[self.probabilities_key].detach().cpu().numpy(),
            [labels.numpy() for labels in last_member_labels(self.inferer)],
            features,
            self.reference,
            self.thresholds,
        )
