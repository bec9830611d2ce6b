"""Inference of a bundle, as `monai.bundle run` does it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from fastapi import HTTPException
from monailabel.tasks.infer.bundle import BundleInferTask

from crossmoda.data import SaveNiftid, case_name, find_faults, save_nifti
from crossmoda.data.inputs import NIFTI_SUFFIXES
from crossmoda.data.validation import raise_first
from crossmoda.uncertainty import SaveCaseReportd

logger = logging.getLogger(__name__)


class Inference(BundleInferTask):
    """MONAI Label's `BundleInferTask` with the bundle's own way of saving.

    Theirs writes float32 through ITK, which has no sheared grids; hands MONAI's `Spacingd` a text where it expects
    metadata; passes over weights that do not fit; and says nothing of how sure the result is.

    Args:
        path: the bundle's folder.
        kind: MONAI Label's type: segmentation or others; `Grading` is the classification.
    """

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, conf={}, type=kind, load_strict=True)
        self._config.pop("model_filename", None)  # there is one; the others in the folder are no choice
        self._one_at_a_time = threading.Lock()  # the config's objects are shared by all requests

    def weights_version(self) -> str:
        """Changes whenever other weights are put in place."""
        return str(Path(self.get_path()).stat().st_mtime_ns)

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Run one request.

        Raises:
            InputError: if the scan has a fault.
            HTTPException: 500, if a config ends the process, as an entry point's would; the server must go on.
        """
        image = request["image"]
        if image.endswith(NIFTI_SUFFIXES):
            raise_first(find_faults([{"case": case_name(image), "site": "", "image": image}], progress=False))
        with self._one_at_a_time:
            try:
                return super().__call__(request, callbacks)
            except SystemExit:
                message = f"{request.get('model')}: its config does not run; the server's log has the reason"
                raise HTTPException(500, message) from None

    def run_pre_transforms(self, data: dict[str, Any], transforms: Sequence[Callable]) -> dict[str, Any]:
        """Run the bundle's preprocessing."""
        path = data.pop("image_path")  # MONAI 1.6.1's Spacingd takes every `image_*` for metadata
        data = super().run_pre_transforms({**data, "case": case_name(path)}, transforms)
        data["image_path"] = path
        return data

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """The bundle's postprocessing; then the report, while there are probabilities; then MONAI Label's own last."""
        *steps, last = super().post_transforms(data)
        report = self._saving_step(SaveCaseReportd)

        def add_report(data: dict[str, Any]) -> dict[str, Any]:
            is_nifti = data["image_path"].endswith(NIFTI_SUFFIXES)
            data["result"] = {"report": report.report(data, self.key_pred)} if report and is_nifti else {}
            return {key: value for key, value in data.items() if key != "probabilities"}

        return [*steps, add_report, last]

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the result as the bundle's inference does: its type, and the raw scan's grid to the last bit."""
        saving = self._saving_step(SaveNiftid)
        suffix = data.get("result_extension") or NIFTI_SUFFIXES[0]
        if saving is None or suffix not in NIFTI_SUFFIXES:
            return super().writer(data, suffix, saving.dtype if saving else None)
        raw = nib.load(data["image_path"])
        array = np.asarray(data[self.key_pred].cpu())
        array = np.rint(array) if saving.dtype.kind in "iu" else array
        handle, path = tempfile.mkstemp(suffix)
        os.close(handle)
        save_nifti(array.astype(saving.dtype), raw.affine, path, header=raw.header)
        return path, data["result"]

    def _saving_step(self, kind: type) -> Any:
        """The step of the config's `save` that is of a class; None if there is none."""
        if "save" not in self.bundle_config:
            return None
        steps = self.bundle_config.get_parsed_content("save").transforms
        return next((step for step in steps if isinstance(step, kind)), None)
