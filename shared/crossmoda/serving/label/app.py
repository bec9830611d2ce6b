"""The app that MONAI Label serves."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from crossmoda.errors import InputError
from crossmoda.serving.label.datastore import CheckedDatastore
from crossmoda.serving.label.grading import Grading
from crossmoda.serving.label.inference import Inference
from crossmoda.serving.label.strategy import MostUncertain
from crossmoda.serving.label.training import FineTuning
from crossmoda.serving.requests import infer_request
from crossmoda.serving.selection import case_uncertainty


class LabelApp(MONAILabelApp):
    """Serves the bundles of a folder that `crossmoda.serving.make_app` made.

    MONAI Label's own bundle app looks for bundles in the model zoo, guesses a bundle's type from its name, and hands
    requests on unchecked.

    Args:
        app_dir: that folder.
        studies: folder of the scans.
        conf: of the command line.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.served = json.loads((Path(app_dir) / "served.json").read_text(encoding="utf-8"))
        super().__init__(
            app_dir, studies, dict(conf), name="crossmoda", description="Vestibular schwannoma and cochlea on MRI"
        )

    def init_datastore(self) -> CheckedDatastore:
        """The studies' folder."""
        return CheckedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, Inference]:
        """One inference a bundle."""
        kinds = {name: entry["type"] for name, entry in self.served["bundles"].items()}
        return {
            name: Grading(self._folder(name)) if kind == "classification" else Inference(self._folder(name), kind)
            for name, kind in kinds.items()
        }

    def init_trainers(self) -> dict[str, FineTuning]:
        """One training a bundle that labels can train."""
        names = [name for name, entry in self.served["bundles"].items() if entry["trainable"]]
        return {name: FineTuning(self._folder(name), self.served["tracking_uri"]) for name in names}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which scan is next; the first one is a client's default."""
        ours = {"uncertainty": MostUncertain(self._uncertainty, self._segmenters())} if self._segmenters() else {}
        return {**ours, "first": First(), "random": Random()}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment, translate or grade one scan, and remember how sure a segmentation is.

        Raises:
            HTTPException: 400, if the request asks for what it must not, or the scan has a fault.
        """
        store = datastore or self.datastore()
        try:
            request = infer_request(request, tempfile.gettempdir())
            if not os.path.isabs(request["image"]) and request["image"] not in store.list_images():
                raise InputError(f"image '{request['image']}' is not in the studies")
            if isinstance(self._infers.get(request["model"]), Grading):
                return self._grade(request, store)
            result = super().infer(request, store)
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        self._remember(request, result, store)
        return result

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment or translate several scans; on the CPU where there is one GPU or none to choose from."""
        return super().batch_infer({**request, "multi_gpu": torch.cuda.device_count() > 1}, datastore)

    def _folder(self, name: str) -> str:
        return str(Path(self.app_dir) / "model" / name)

    def _segmenters(self) -> list[str]:
        return [name for name, entry in self.served["bundles"].items() if entry["type"] == "segmentation"]

    def _grade(self, request: dict[str, Any], store: Datastore) -> dict[str, Any]:
        """Grade by the label that a person saved, else by one of an earlier inference, else by a new one."""
        image = request["image"]
        for tag in (DefaultLabelTag.FINAL.value, DefaultLabelTag.ORIGINAL.value):
            mask = "" if os.path.isabs(image) else store.get_label_uri(image, tag)
            if mask:
                return super().infer({**request, "mask": mask}, store)
        if not self._segmenters():
            raise InputError(f"{image} has no label to grade by: save one, or serve a segmentation bundle too")
        made = super().infer({"model": self._segmenters()[0], "image": image}, store)["file"]
        try:
            return super().infer({**request, "mask": made}, store)
        finally:
            Path(made).unlink(missing_ok=True)

    def _remember(self, request: dict[str, Any], result: dict[str, Any], store: Datastore) -> None:
        """Keep how sure a scan's segmentation is with the scan, for the choice of the next one."""
        report, image, model = result["params"].get("report"), request["image"], request["model"]
        if report and not os.path.isabs(image):
            version = self._infers[model].weights_version()
            entry = {"uncertainty": case_uncertainty(report), "flags": report["flags"], "weights": version}
            known = store.get_image_info(image).get("crossmoda", {})
            store.update_image_info(image, {"crossmoda": {**known, model: entry}})

    def _uncertainty(self, model: str, image: str, info: Mapping[str, Any], *, segment: bool = False) -> float | None:
        if segment:
            result = self.infer({"model": model, "image": image})
            Path(result["file"]).unlink(missing_ok=True)
            return case_uncertainty(result["params"]["report"])
        entry = info.get("crossmoda", {}).get(model, {})
        return entry["uncertainty"] if entry.get("weights") == self._infers[model].weights_version() else None
