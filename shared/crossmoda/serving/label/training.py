"""Fine-tuning of a bundle on the labels that a person saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from crossmoda.data import find_faults, replacing
from crossmoda.data.validation import raise_first
from crossmoda.errors import InputError
from crossmoda.serving.requests import train_request

MAX_EPOCHS = 20  # ours; of a request without
VAL_SPLIT = 0.2  # MONAI Label's; of a request without


class FineTuning(BundleTrainTask):
    """MONAI Label's `BundleTrainTask` that starts from the served weights and replaces them when it has ended.

    Theirs starts anew only with a file name that does not exist, continues our resumable runs where they ended, leaves
    a learning rate schedule as long as the first training's, and writes into the weights that are being served.

    Args:
        path: the bundle's folder.
        tracking_uri: of MLflow.
    """

    def __init__(self, path: str, tracking_uri: str) -> None:
        super().__init__(path, conf={}, enable_tracking=True)
        self.tracking_uri = tracking_uri
        self._options: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        """Options that a client may show."""
        rate = self.bundle_config.get_parsed_content("learning_rate")
        return {
            "device": super().config()["device"],
            "max_epochs": MAX_EPOCHS,
            "val_split": VAL_SPLIT,
            "learning_rate": rate,
        }

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and put the best weights in place.

        Raises:
            InputError: if the request has a value that is not allowed, or a label has a fault.
        """
        options = {"max_epochs": MAX_EPOCHS, "val_split": VAL_SPLIT, **train_request(request)}
        self._options = options
        folder = Path(self.bundle_path)
        shutil.rmtree(folder / "finetuning", ignore_errors=True)
        result = super().__call__({**options, "multi_gpu": False, "gpus": "0", "tracking": "None"}, datastore)
        with replacing(folder / "models" / "model.pt") as temporary:
            shutil.copy(folder / "finetuning" / "model.pt", temporary)
        return result

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        pairs = [{"image": item["image"], "label": item["label"]} for item in datastore.datalist() if item]
        items = [{"case": Path(pair["image"]).name, "site": "", **pair} for pair in pairs]
        if len(items) < 2:
            raise InputError(f"{len(items)} final label(s): save two or more, one to train on and one to judge by")
        raise_first(find_faults(items, progress=False))
        return pairs

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: dict[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """At least one to judge by and one to train on; with a share of 0 all serve for both."""
        if request["val_split"] == 0:
            return datalist, datalist
        judged = min(max(1, round(request["val_split"] * len(datalist))), len(datalist) - 1)
        return datalist[:-judged], datalist[-judged:]

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        """Nothing: `initial_weights` does it, and fails where the weights do not fit."""

    def _update_overrides(self, overrides: dict[str, Any]) -> None:
        folder = Path(self.bundle_path)
        overrides |= {
            "data_list": "",  # the data are given; labels have the network's classes
            "initial_weights": str(folder / "models" / "model.pt"),
            "resume": False,
            "ckpt_dir": str(folder / "finetuning"),
            "output_dir": str(folder / "finetuning"),
            "num_workers": 0,
            "max_epochs": self._options["max_epochs"],  # of schedules
            "tracking": str(folder / "configs" / "mlflow.json"),
            "tracking_uri": self.tracking_uri,
            "experiment_name": folder.name,
            "run_name": f"fine-tuning, {len(overrides['train#dataset#data'])} labels",
        }
        if "learning_rate" in self._options:
            overrides["learning_rate"] = self._options["learning_rate"]
