"""Between MONAI's engines and the answers: batches of both modalities, weights, grades of an inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer

from crossmoda.engines import load_weights
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import GRADES_FILE, grade_answer, no_answer, write_answers
from crossmoda.koos.items import Item
from crossmoda.networks import MSFKoosNet

ENCODER = "encoder."  # of MSFGenerator's state dict


def prepare_modalities(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches of `StackModalitiesd` as engines take them: all cases in the first modality, then all in the second.

    Args:
        batch: `image` (B, M, C, X, Y, Z) and `label` (B,).
        device: where to.
        non_blocking: as torch's `Tensor.to`.
        kwargs: the same.

    Returns:
        Images (M * B, C, X, Y, Z) and labels (M * B,).
    """
    image = batch["image"].to(device, non_blocking=non_blocking, **kwargs)
    label = batch["label"].to(device, non_blocking=non_blocking)
    return image.transpose(0, 1).flatten(0, 1), label.repeat(image.shape[1])


def logits_and_labels(output: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """An engine's decollated output as ignite's metrics take it: logits (B, classes) and labels (B,)."""
    labels = torch.tensor([int(item["label"]) for item in output])
    return torch.stack([item["pred"].cpu() for item in output]), labels


class ModalityMeanInferer(Inferer):
    """Runs another inferer on each modality of a case and averages the grades' probabilities.

    Args:
        inferer: of images (B, C, X, Y, Z); returns logits (B, classes).
        modalities: places of those that count; None counts all that a case has.
    """

    def __init__(self, inferer: Inferer, modalities: Sequence[int] | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.modalities = list(modalities) if modalities is not None else None

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Images (B, M, C, X, Y, Z) -> the logarithm of the mean probabilities, (B, classes)."""
        if self.modalities is not None:
            inputs = inputs[:, self.modalities]
        logits = self.inferer(inputs.flatten(0, 1), network, *args, **kwargs)
        mean = logits.float().softmax(1).unflatten(0, inputs.shape[:2]).mean(1)
        return mean.clamp_min(torch.finfo(torch.float32).tiny).log()


class KoosAnswers:
    """Handler of an evaluator: keeps the grade of each case, and writes them all when asked.

    Args:
        unsure_below: see `crossmoda.koos.grade_answer`.
    """

    def __init__(self, unsure_below: float) -> None:
        self.unsure_below = unsure_below
        self.probabilities: dict[str, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose output is decollated."""
        engine.add_event_handler(Events.STARTED, lambda: self.probabilities.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)

    def write(self, items: Sequence[Item], output_dir: str | Path) -> Path:
        """Write `grades.csv` and a JSON a case (`write_answers`); cases that were not graded have an empty mask.

        Args:
            items: all cases, in the order of the table.
            output_dir: made if it is not there.

        Returns:
            The path of `grades.csv`.
        """
        answers = []
        for case in dict.fromkeys(item["case"] for item in items):
            found = self.probabilities.get(case)
            answers.append(
                grade_answer(case, found.tolist(), self.unsure_below) if found is not None else no_answer(case)
            )
        path = write_answers(answers, output_dir)
        flagged = sum(bool(answer.flags) for answer in answers)
        print(f"{len(answers)} case(s), {flagged} with a flag: {Path(output_dir) / GRADES_FILE}")
        return path

    def _keep(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.probabilities[item["case"]] = output["pred"].float().softmax(0).cpu()


def load_initial(network: MSFKoosNet, translator: str | Path | None, weights: str | Path | None = None) -> None:
    """Weights to start a training from: a former stage's, or the encoder of a trained MSF-Net.

    Args:
        network: with the encoder's sizes as its translator's.
        translator: `model.pt` of the bundle `translation` with methods/msf_net.yaml, a state dict of `MSFGenerator`.
        weights: `model.pt` of a former stage of this bundle; goes before `translator`.

    Raises:
        InputError: if none is given, or it is missing, unreadable, or of another network.
    """
    if weights:
        load_weights(network, weights)
        return
    if not translator:
        raise InputError("no encoder: give --translator (model.pt of MSF-Net, bundle translation) or --initial_weights")
    path = Path(translator)
    if not path.is_file():
        raise InputError(f"{path} is missing: train MSF-Net first (bundle translation, methods/msf_net.yaml)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is not a checkpoint ({type(error).__name__}): train the translator again") from None
    try:
        network.encoder.load_state_dict(own)
    except RuntimeError:
        raise InputError(
            f"{path} is no MSF-Net with features={network.encoder.layers[0].out_channels}:"
            " give a checkpoint of methods/msf_net.yaml, and its features and n_blocks"
        ) from None


load_initial_or_exit = exit_on_input_error(load_initial)
