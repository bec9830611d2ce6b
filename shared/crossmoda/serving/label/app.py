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
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from crossmoda.errors import InputError
from crossmoda.serving.label.datastore import CheckedDatastore
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
        return {name: Inference(self._folder(name), entry["type"]) for name, entry in self.served["bundles"].items()}

    def init_trainers(self) -> dict[str, FineTuning]:
        """One training a bundle that labels can train."""
        names = [name for name, entry in self.served["bundles"].items() if entry["trainable"]]
        return {name: FineTuning(self._folder(name), self.served["tracking_uri"]) for name in names}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which scan is next; the first one is a client's default."""
        models = [name for name, entry in self.served["bundles"].items() if entry["type"] == "segmentation"]
        ours = {"uncertainty": MostUncertain(self._uncertainty, models)} if models else {}
        return {**ours, "first": First(), "random": Random()}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment or translate one scan, and remember how sure the result is.

        Raises:
            HTTPException: 400, if the request asks for what it must not, or the scan has a fault.
        """
        store = datastore or self.datastore()
        try:
            request = infer_request(request, tempfile.gettempdir())
            image = request["image"]
            if not os.path.isabs(image) and image not in store.list_images():
                raise InputError(f"image '{image}' is not in the studies")
            result = super().infer(request, store)
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        report = result["params"].get("report")
        if report and not os.path.isabs(image):
            version = self._infers[request["model"]].weights_version()
            entry = {"uncertainty": case_uncertainty(report), "flags": report["flags"], "weights": version}
            known = store.get_image_info(image).get("crossmoda", {})
            store.update_image_info(image, {"crossmoda": {**known, request["model"]: entry}})
        return result

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment or translate several scans; on the CPU where there is one GPU or none to choose from."""
        return super().batch_infer({**request, "multi_gpu": torch.cuda.device_count() > 1}, datastore)

    def _folder(self, name: str) -> str:
        return str(Path(self.app_dir) / "model" / name)

    def _uncertainty(self, model: str, image: str, info: Mapping[str, Any], *, segment: bool = False) -> float | None:
        if segment:
            result = self.infer({"model": model, "image": image})
            Path(result["file"]).unlink(missing_ok=True)
            return case_uncertainty(result["params"]["report"])
        entry = info.get("crossmoda", {}).get(model, {})
        return entry["uncertainty"] if entry.get("weights") == self._infers[model].weights_version() else None
