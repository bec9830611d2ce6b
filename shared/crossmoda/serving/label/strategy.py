"""MONAI Label's next sample: the one that the network is least sure of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from crossmoda.serving.selection import next_case

logger = logging.getLogger(__name__)
SECONDS = 60.0  # ours


class MostUncertain(Strategy):
    """Proposes the unlabelled scan with the most uncertain segmentation by the present weights.

    MONAI Label's own strategies read scores that a separate scoring run with dropout has left; ours come from each
    inference of a scan. Scans without one are segmented first, as long as there is time.

    Args:
        measure: scan and its stored information to its uncertainty by the present weights; segments if asked to, else
            None where it is not known.
        models: segmentation models; the first one is asked where the request names none.
    """

    def __init__(self, measure: Callable[..., float | None], models: list[str]) -> None:
        super().__init__("The scan that the network is least sure of")
        self.measure = measure
        self.models = models

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose.

        Args:
            request: `model`, and `seconds`: how long scans that were never segmented may take (default 60; at least
                one is, if none was before).
            datastore: the studies.

        Returns:
            id, model, uncertainty, and how many scans were and were not compared; None if all are labelled.
        """
        model = request.get("model") if request.get("model") in self.models else self.models[0]
        deadline = time.monotonic() + float(request.get("seconds", SECONDS))
        information = {image: datastore.get_image_info(image) for image in sorted(datastore.get_unlabeled_images())}
        known = {image: self.measure(model, image, info) for image, info in information.items()}
        uncertainties = {image: value for image, value in known.items() if value is not None}
        for image in information:
            if image in uncertainties:
                continue
            if uncertainties and time.monotonic() > deadline:
                break
            uncertainties[image] = self.measure(model, image, information[image], segment=True)
        if not uncertainties:
            return None
        shown = {image: info.get("strategy", {}).get("uncertainty", {}) for image, info in information.items()}
        image = next_case(uncertainties, {image: last["ts"] for image, last in shown.items() if last})
        logger.info(f"{image} is next: uncertainty {uncertainties[image]:.3f} of {len(uncertainties)} compared")
        return {
            "id": image,
            "model": model,
            "uncertainty": uncertainties[image],
            "compared": len(uncertainties),
            "not_compared": len(information) - len(uncertainties),
        }
