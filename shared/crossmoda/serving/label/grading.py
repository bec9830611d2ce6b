"""Koos grades of single scans, as the inference of the bundle koos-classifier gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from crossmoda.errors import InputError
from crossmoda.koos import KoosAnswer, grade_answer, koos_inputs, no_answer, split_empty
from crossmoda.serving.label.inference import Inference


class Grading(Inference):
    """MONAI Label's classification of a scan and the mask of its tumour.

    MONAI Label's bundle task hands a network the scan alone, and answers with scores that it takes as they are. This
    one's answer is MONAI Label's `prediction` (idx, label, score), and the bundle's `grade`, `probabilities` and
    `flags`; an empty mask gives no grade.

    Args:
        path: the bundle's folder.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "classification")

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[None, dict[str, Any]]:
        """Grade.

        Args:
            request: with `image` and `mask`, two files on one grid.
            callbacks: as in MONAI Label.

        Raises:
            InputError: if there is no mask, or a file has a fault.
        """
        if not request.get("mask"):
            raise InputError(f"{request.get('image')} has no mask: segment it and save the label first")
        modality = self.bundle_config.get_parsed_content("modality")
        items = koos_inputs(request["image"], request["mask"], modality=modality, progress=False)
        if not split_empty(items, self.bundle_config.get_parsed_content("tumour_labels"))[0]:
            return None, _as_result(no_answer(items[0]["case"]), {})
        return super().__call__({**request, **items[0]}, callbacks)

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """The bundle's preprocessing as one step: it loads the mask and one of two modalities."""
        self._update_device(data)
        return [self.bundle_config.get_parsed_content("preprocessing")]

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """Nothing: the grade has no grid."""
        return []

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[None, Any]:
        """The answer; no file."""
        probabilities = data[self.key_pred].float().softmax(0).cpu().tolist()
        unsure_below = self.bundle_config.get_parsed_content("unsure_below")
        return None, _as_result(grade_answer(data["case"], probabilities, unsure_below), self.labels)


def _as_result(answer: KoosAnswer, labels: dict[str, int]) -> dict[str, Any]:
    scores = answer.probabilities or ()
    prediction = [{"idx": idx, "label": name, "score": scores[idx]} for name, idx in labels.items()]
    return {"prediction": prediction, **asdict(answer)}
