"""Cross-validation of a round's members on translated cases: nnU-Net's choice of the best single member or pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmoda.data import label_map, read_sections, split_cases, write_datalist, write_text
from crossmoda.errors import InputError
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.choice import BestSingleOrPair, candidates_dice
from crossmoda.selftraining.members import Network, prediction
from crossmoda.selftraining.steps import run_bundle
from crossmoda.selftraining.teacher import SOURCE

RESULT = "choice.json"


@dataclass(frozen=True)
class HeldOut:
    """Predicts each fold's validation cases by the networks of that fold, and chooses.

    Args:
        folder: of the predictions and of `choice.json`.
        translated: data list of the translated scans.
        train_options: overrides of the trainings, of which seed and number of folds make the split.
        infer_options: overrides of the predictions.
        classes: of the networks.
    """

    folder: Path
    translated: Path
    train_options: Mapping[str, Any]
    infer_options: Mapping[str, Any]
    classes: Classes

    @staticmethod
    def check(networks: Iterable[Network]) -> None:
        """Raise `InputError` unless all members have the same folds."""
        folds = {network.member.name: network.member.folds for network in networks}
        if any(found is None or list(found) != list(next(iter(folds.values()))) for found in folds.values()):
            raise InputError("the choice of the best single member or pair needs the same folds of each: give folds")

    def decide(self, networks: Mapping[Network, Path], round_number: int, log_of: Callable[[str], Path]) -> None:
        """Predict, compare and write `choice.json`.

        Args:
            networks: with their checkpoints.
            round_number: theirs.
            log_of: log file of a network's prediction.

        Raises:
            InputError: if a prediction fails.
        """
        items: dict[tuple[int, str], dict[str, Any]] = {}
        for network, checkpoint in networks.items():
            data_list = self._write_list(network)
            folder = self.folder / network.name
            own = {**self.infer_options, "data_list": str(data_list), "section": SOURCE}
            files, values = prediction(network, round_number, checkpoint, folder, own)
            name = f"round {round_number}, held-out cases by {network.name}"
            run_bundle(name, files, values, log_of(network.name))
            for item in read_sections(data_list, (SOURCE,))[SOURCE]:
                entry = items.setdefault((network.fold, item["case"]), {"label": item["label"], "predictions": {}})
                entry["predictions"][network.member.name] = folder / f"{item['case']}_prob.nii.gz"
        members = list(dict.fromkeys(network.member.name for network in networks))
        dice = candidates_dice(list(items.values()), members, self.translated, self.classes)
        content = {
            "chosen": list(BestSingleOrPair().choose(dice)),
            "dice": {" + ".join(names): value for names, value in dice.items()},
            "cases": len(items),
        }
        write_text(json.dumps(content, indent=1) + "\n", self.folder / RESULT)

    def chosen(self) -> list[str]:
        """The members that were chosen."""
        return json.loads((self.folder / RESULT).read_text(encoding="utf-8"))["chosen"]

    def _write_list(self, network: Network) -> Path:
        """The validation cases of a network's fold; views of a case are told apart by their names."""
        options = {**self.train_options, **network.member.train}
        items = read_sections(self.translated, (SOURCE,))[SOURCE]
        _, held_out = split_cases(items, 0.5, options.get("seed", 0), network.fold, options.get("num_folds", 5))
        named = [{**item, "case": "_".join(filter(None, [item["case"], item.get("view")]))} for item in held_out]
        path = self.folder / f"fold_{network.fold}.json"
        write_datalist({SOURCE: named}, path, label_map(self.translated))
        return path
