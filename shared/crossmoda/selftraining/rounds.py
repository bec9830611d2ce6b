"""Self-training in rounds: teacher -> pseudo-labels -> students, which are the next round's teacher."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import read_sections, replacing, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.fusion import get_rule
from crossmoda.postprocessing import Classes
from crossmoda.postprocessing.rules import check_rules
from crossmoda.selftraining import teacher
from crossmoda.selftraining.choice import All, BestFolds, BestSingleOrPair, best_validation_dice
from crossmoda.selftraining.cleaning import Components
from crossmoda.selftraining.ensemble import FILE, write_ensemble
from crossmoda.selftraining.findings import metrics_without_labels, round_metrics, write_metrics, write_page
from crossmoda.selftraining.held_out import HeldOut
from crossmoda.selftraining.judge import EarlyStop
from crossmoda.selftraining.members import Network, prediction, read_members, training
from crossmoda.selftraining.priors import learn_priors
from crossmoda.selftraining.round import Labelling, Round
from crossmoda.selftraining.steps import Steps, describe, file_digest, files_digest, run_bundle
from crossmoda.selftraining.teacher import SOURCE, TARGET
from crossmoda.selftraining.tracking import Tracking

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
# Overrides without effect on results.
VOLATILE = ("data_list", "output_dir", "ckpt_dir", "ckpt_paths", "initial_weights", "progress", "threads", "device")


class Rounds:
    """The whole self-training; a killed one goes on where it stopped.

    The target scans' labels are not read: of their section only case, site and image are taken over.

    Args:
        data_list: its `target_training` are the real scans.
        translated: translator -> data list of its volumes, whose labels are the source's.
        output_dir: holds `round_<r>/`, and at the end `metrics.json`, `ensemble.json` and `index.html`.
        members: name -> arguments of `Member`.
        rounds: self-training rounds after round 0.
        teachers: member -> checkpoints of its networks (or one for all); those members are not trained in round 0.
        labelling: from predictions to pseudo-labels.
        ensemble: which networks predict: `All`, `BestFolds`, `BestSingleOrPair`.
        fusion: rule of the final ensemble; pseudo-labels are made of the mean.
        student_weights: `anew`, or `previous` to start from those of the round before.
        train_options: overrides of all trainings.
        infer_options: overrides of all predictions.
        extra_overlays: on top of every member's.
        early_stop: by a label-free criterion.
        classes: of the networks.
        tracking: MLflow.
        train_processes: of each training, one a GPU.
        progress: whether to show a bar.
    """

    def __init__(
        self,
        data_list: str | Path,
        translated: Mapping[str, str | Path],
        output_dir: str | Path,
        members: Mapping[str, Mapping[str, Any]],
        rounds: int = 1,
        teachers: Mapping[str, Sequence[str]] | None = None,
        labelling: Labelling | None = None,
        ensemble: All | BestFolds | BestSingleOrPair | None = None,
        fusion: str = "mean",
        student_weights: str = "anew",
        train_options: Mapping[str, Any] | None = None,
        infer_options: Mapping[str, Any] | None = None,
        extra_overlays: Sequence[str] = (),
        early_stop: EarlyStop | None = None,
        classes: Classes | None = None,
        tracking: Tracking | None = None,
        train_processes: int = 1,
        progress: bool = True,
    ) -> None:
        self.data_list, self.views, self.output_dir = Path(data_list), translated, Path(output_dir).absolute()
        self.members, self.extra_overlays = members, extra_overlays
        self.rounds, self.teachers = rounds, teachers or {}
        self.labelling, self.ensemble, self.fusion = labelling or Labelling(), ensemble or All(), fusion
        self.student_weights = student_weights
        self.train_options, self.infer_options = dict(train_options or {}), dict(infer_options or {})
        self.early_stop, self.classes = early_stop or EarlyStop(), classes or Classes()
        self.tracking, self.progress = tracking or Tracking(), progress
        self.train_processes = train_processes
        self.translated, self.targets = self.output_dir / "translated.json", self.output_dir / "targets.json"

    def run(self) -> None:
        """Do all rounds.

        Raises:
            InputError: if an input has a fault, or a step fails; one line that names the step's log file.
        """
        self._prepare()
        done: list[Round] = []
        self.steps = Steps(self._count(), self.progress)
        try:
            with self.tracking.run() as parent:
                for number in range(self.rounds + 1):
                    with self.tracking.run(f"round {number}", parent) as run:
                        current = self._round(number, done, run)
                        if current is None:
                            break
                        done.append(current)
                        self.tracking.log(run, current.metrics, number)
                    if self.early_stop.is_due([item.metrics for item in done]):
                        logger.info(f"{self.early_stop.criterion} has stopped improving: no further round")
                        break
                self._finish(done)
        finally:
            self.steps.close()

    def _prepare(self) -> None:
        if self.student_weights not in ("anew", "previous"):
            raise InputError(f"student_weights is '{self.student_weights}': give anew or previous")
        self.kinds = read_members(self.members, self.extra_overlays)
        for name in self.teachers:
            if name not in self.members:
                raise InputError(f"teachers names '{name}', which is no member: name one of {', '.join(self.members)}")
        for network in self._networks(0):
            if given := self.teachers.get(network.member.name):
                self._given(network, given)
        self._check_settings()
        teacher.write_translated(self.views, self.translated)
        teacher.write_targets(self.data_list, self.targets)
        self.items = read_sections(self.targets, (TARGET,))[TARGET]
        if self.labelling.plausible is not None:
            mapping = {label: label for label in range(4)} if self.classes.cochlea == 3 else None
            learn_priors(self.translated, SOURCE, self.classes, mapping).save(self.output_dir / "priors.json")

    def _check_settings(self) -> None:
        """Faults of the settings that would else show after the first trainings."""
        self.early_stop.check()
        get_rule(self.fusion)
        for rule in self.labelling.cleaning:
            if isinstance(rule, Components):
                check_rules(rule.rules)
        if isinstance(self.ensemble, BestFolds):
            unknown = [name for name in self.ensemble.counts if name not in self.members]
            if unknown:
                known = ", ".join(self.members)
                raise InputError(f"ensemble counts folds of '{unknown[0]}', which is no member: name one of {known}")
        elif isinstance(self.ensemble, BestSingleOrPair) and len(self.kinds) > 1:
            HeldOut.check([network for kind in self.kinds for network in kind.networks()])

    def _networks(self, number: int) -> list[Network]:
        return [network for kind in self.kinds if kind.first_round <= number for network in kind.networks()]

    def _count(self) -> int:
        """Steps of all rounds, at most."""
        total = 0
        for number in range(self.rounds + 1):
            networks = self._networks(number)
            total += sum(2 + len(network.member.views) for network in networks) + 1 + (number > 0)
        return total

    def _round(self, number: int, done: Sequence[Round], run: str | None) -> Round | None:
        """One round; None if no case's pseudo-label was kept."""
        started = time.monotonic()
        current = Round(number, self.output_dir / f"round_{number}")
        data_list, verdicts = self.translated, {}
        if number:
            current.key, verdicts = self._label(current, done[-1])
            if all(verdicts.values()):
                self._end(current, verdicts, run)
                return None
            data_list = current.folder / "datalist.json"
        for network in self._networks(number):
            self._train(current, network, data_list, done, run)
        self._choose(current)
        for network in current.chosen:
            for view in range(len(network.member.views) + 1):
                self._predict(current, network, view)
        self._fuse(current)
        before = done[-1] if done else None
        current.metrics = round_metrics(current, before, verdicts, self.labelling, self.classes)
        write_metrics(current, time.monotonic() - started)
        networks = {network: current.checkpoints[network] for network in current.chosen}
        write_ensemble(networks, number, self.fusion, self.classes, current.folder / FILE)
        write_page(current, before, self.items, self.classes, self._file_classes())
        return current

    def _end(self, current: Round, verdicts: Mapping[str, str], run: str | None) -> None:
        """Of a round that kept no case: its page, so that the user sees why."""
        current.metrics = metrics_without_labels(current.number, verdicts)
        write_metrics(current)
        (current.folder / FILE).unlink(missing_ok=True)  # of a run with other settings
        self.tracking.log(run, current.metrics, current.number)
        page = write_page(current, None, self.items, self.classes, self._file_classes())
        logger.warning(f"round {current.number}: no case passed the selection ({page} says why): the end")

    def _label(self, current: Round, before: Round) -> tuple[str, dict[str, str]]:
        """Pseudo-labels from the round before; which are kept, and why not."""
        scores = teacher.read_scores(before.folder / "fused")
        verdicts = self.labelling.selection.judge(scores)
        labels = current.folder / "pseudo_labels"
        rules = (self.labelling.cleaning, self.labelling.voxels)

        def write() -> None:
            teacher.write_pseudo_labels(self.items, self._evidence(before), labels, rules, self._file_classes())

        key = self.steps.run(
            f"round {current.number}, pseudo-labels", labels, ["labels", describe(rules), before.key], write
        )
        kept = [case for case, reason in verdicts.items() if not reason]
        teacher.write_scores(scores, verdicts, current.folder / "scores.csv")
        teacher.write_combined(self.translated, self.items, labels, kept, current.folder / "datalist.json")
        logger.info(f"round {current.number}: {len(kept)} of {len(verdicts)} cases kept")
        return key, verdicts

    def _file_classes(self) -> np.ndarray:
        return teacher.file_classes(self.translated, self.classes.cochlea + 1)

    def _evidence(self, of: Round) -> Iterator[teacher.CaseEvidence]:
        for item in self.items:
            yield teacher.read_evidence(item, of.folders(), of.folders(views=True), self.classes)

    def _train(self, current: Round, network: Network, data_list: Path, done: Sequence[Round], run: str | None) -> None:
        """Train a network, or take the teacher that is given."""
        given = self.teachers.get(network.member.name)
        if not current.number and given:
            self._take(current, network, self._given(network, given))
            return
        name = f"round {current.number}, training of {network.name}"
        folder = current.folder / "networks" / network.name
        start = self._start(network, done)
        weights, count = start and done[-1].checkpoints[start], self.train_processes
        files, values = training(network, current.number, data_list, folder, self.train_options, weights, count)
        settings = ["training", files_digest(files), _lasting(values), file_digest(data_list), current.key]
        settings.append(start and done[-1].keys[start])
        log = current.folder / "logs" / f"training_{network.name}.log"

        def train() -> None:
            extra = self.tracking.training(network.member.bundle, f"round {current.number} {network.name}")
            run_bundle(name, files, values | extra, log, self.tracking.environment(run), processes=count)

        current.keys[network] = self.steps.run(name, folder, settings, train)
        current.checkpoints[network] = folder / "model" / "model.pt"

    def _take(self, current: Round, network: Network, given: Path) -> None:
        """Copy a given teacher, so that the results do not depend on files elsewhere.

        Its history goes along: by its validation Dice the rule of the ensemble can choose in round 0, too.
        """
        folder = current.folder / "networks" / network.name
        checkpoint = folder / "model" / "model.pt"

        def copy() -> None:
            with replacing(checkpoint) as temporary:
                shutil.copyfile(given, temporary)
            history = given.parent.parent / HISTORY  # of a training with `<output_dir>/model` as its ckpt_dir
            if history.is_file():
                shutil.copyfile(history, folder / HISTORY)

        name = f"round 0, weights of {network.name}"
        current.keys[network] = self.steps.run(name, folder, ["given", file_digest(given)], copy)
        current.checkpoints[network] = checkpoint

    def _given(self, network: Network, paths: Sequence[str]) -> Path:
        paths = [paths] if isinstance(paths, str) else list(paths)
        networks = network.member.networks()
        if len(paths) not in (1, len(networks)):
            name = network.member.name
            raise InputError(f"teachers gives {len(paths)} checkpoints for '{name}': give 1 or {len(networks)}")
        path = Path(paths[networks.index(network)] if len(paths) > 1 else paths[0]).absolute()
        if not path.is_file():
            raise InputError(f"{path} is missing: correct teachers, or leave it out to train round 0")
        return path

    def _start(self, network: Network, done: Sequence[Round]) -> Network | None:
        """The network of the round before whose weights a student starts from."""
        if self.student_weights == "anew" or not done:
            return None
        same = [other for other in done[-1].checkpoints if other.name == network.name]
        return same[0] if same else None

    def _choose(self, current: Round) -> None:
        """The networks of the round's ensemble."""
        networks = list(current.checkpoints)
        names: dict[str, list[str]] = {}
        for network in networks:
            names.setdefault(network.member.name, []).append(network.name)
        dice = {n.name: self._source_dice(current, n) for n in networks}
        trained = all(value is not None for value in dice.values())
        chosen = [network.name for network in networks]
        if isinstance(self.ensemble, BestFolds) and trained:
            chosen = self.ensemble.choose(names, dice)
        elif isinstance(self.ensemble, BestSingleOrPair) and trained and len(names) > 1:
            members = self._cross_validate(current)
            chosen = [name for member in members for name in names[member]]
        current.chosen = [network for network in networks if network.name in chosen]
        current.metrics["source_dice"] = _with_mean({name: dice[name] for name in chosen} if trained else {})
        if self.steps.bar.total:
            self.steps.bar.total -= sum(1 + len(n.member.views) for n in networks if n not in current.chosen)

    def _cross_validate(self, current: Round) -> list[str]:
        folder = current.folder / "held_out"
        held_out = HeldOut(folder, self.translated, self.train_options, self.infer_options, self.classes)
        settings = ["held out", list(current.keys.values()), describe(self.infer_options)]
        self.steps.run(
            f"round {current.number}, choice by cross-validation",
            folder,
            settings,
            lambda: held_out.decide(
                current.checkpoints,
                current.number,
                lambda name: current.folder / "logs" / f"held_out_{name}.log",
            ),
        )
        return held_out.chosen()

    def _source_dice(self, current: Round, network: Network) -> float | None:
        folder = current.folder / "networks" / network.name
        return best_validation_dice(folder) if (folder / HISTORY).is_file() else None

    def _predict(self, current: Round, network: Network, view: int) -> None:
        """Probabilities of the target scans by one network."""
        suffix = f"_view{view}" if view else ""
        name = f"round {current.number}, prediction by {network.name}{suffix}"
        folder = current.folder / "predictions" / f"{network.name}{suffix}"
        own = {**self.infer_options, "data_list": str(self.targets), "section": TARGET}
        overrides = network.member.views[view - 1] if view else None
        files, values = prediction(network, current.number, current.checkpoints[network], folder, own, overrides)
        settings = ["prediction", files_digest(files), _lasting(values), file_digest(self.targets)]
        settings.append(current.keys[network])
        log = current.folder / "logs" / f"prediction_{network.name}{suffix}.log"
        key = self.steps.run(name, folder, settings, lambda: run_bundle(name, files, values, log))
        current.keys[network] = current.keys[network] if view else key

    def _fuse(self, current: Round) -> None:
        folder = current.folder / "fused"
        cleaning = self.labelling.cleaning if self.labelling.score_cleaned else None
        settings = ["fused", [current.keys[n] for n in current.chosen], describe(cleaning), describe(self.classes)]
        settings.append([n.member.views for n in current.chosen])
        current.key = self.steps.run(
            f"round {current.number}, scores",
            folder,
            settings,
            lambda: teacher.score_cases(self._evidence(current), cleaning, folder) and None,
        )

    def _finish(self, done: Sequence[Round]) -> None:
        best = done[self.early_stop.best([item.metrics for item in done])]
        networks = {network: best.checkpoints[network] for network in best.chosen}
        write_ensemble(networks, best.number, self.fusion, self.classes, self.output_dir / FILE)
        short = [{k: v for k, v in item.metrics.items() if k != "agreement_of_cases"} for item in done]
        summary = {"final_round": best.number, "rounds": short}
        write_text(json.dumps(summary, indent=1) + "\n", self.output_dir / "metrics.json")
        logger.info(f"the ensemble is that of round {best.number}: {self.output_dir / FILE}")


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in VOLATILE}


def _with_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {**values, "mean": float(np.mean(list(values.values())))} if values else {}


@exit_on_input_error
def run_or_exit(rounds: Rounds) -> None:
    """`rounds.run()`; a fault is one line and exit code 2."""
    rounds.run()
