"""The networks that take part in the rounds, and the bundle runs that train them and predict with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from crossmoda.bundle import bundle_root
from crossmoda.errors import InputError

STUDENT = "student"
MULTI_GPU = "multi_gpu_train"
Options = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Member:
    """One kind of network of the ensemble: a segmentation bundle with its overlays.

    Args:
        name: of folders and tables.
        bundle: folder name of the segmentation bundle, e.g. `segmentation-2.5d`.
        overlays: its config files on top of `train.yaml`, e.g. `methods/chen2023`, or paths that end in `.yaml`.
        inference_overlays: on top of `inference.yaml`; None takes `overlays`.
        train: overrides of the training's config.
        infer: overrides of the inference's config.
        of_rounds: overrides of both, one dict for each round from 0 on; the last holds for all that follow.
        folds: folds of the cross-validation, one network each; None trains one network by `val_fraction`.
        views: overrides for further predictions, which count in the agreement only, e.g. other `mirror_axes`.
        first_round: round in which the member is trained first; before, it takes no part.
    """

    name: str
    bundle: str
    overlays: Sequence[str] = ()
    inference_overlays: Sequence[str] | None = None
    train: Options = field(default_factory=dict)
    infer: Options = field(default_factory=dict)
    of_rounds: Sequence[Options] = ()
    folds: Sequence[int] | None = None
    views: Sequence[Options] = ()
    first_round: int = 0

    def config_files(self, kind: str, processes: int = 1) -> list[str]:
        """Config files of a run, in the order of merging.

        Args:
            kind: `train` or `inference`.
            processes: of the training.

        Raises:
            InputError: if the bundle or one of the files is missing.
        """
        overlays = self.overlays if kind == "train" or self.inference_overlays is None else self.inference_overlays
        configs = Path(bundle_root(self.bundle)) / "configs"
        files = [configs / f"{kind}.yaml", *[_overlay(configs, name) for name in overlays]]
        if kind == "train" and processes > 1:
            files.append(configs / f"{MULTI_GPU}.yaml")
        if kind == "train":
            files.append(Path(bundle_root("self-training")) / "configs" / f"{STUDENT}.yaml")
        for file in files:
            if not file.is_file():
                raise InputError(f"{file} is missing: correct the overlays of member '{self.name}'")
        return [str(file) for file in files]

    def options(self, kind: str, round_number: int) -> dict[str, Any]:
        """The member's own overrides of a run.

        Args:
            kind: `train` or `inference`.
            round_number: from 0 on.
        """
        of_round = self.of_rounds[min(round_number, len(self.of_rounds) - 1)] if self.of_rounds else {}
        return {**(self.train if kind == "train" else self.infer), **of_round}

    def networks(self) -> list[Network]:
        """The member's networks, one a fold."""
        return [Network(self, fold) for fold in self.folds] if self.folds is not None else [Network(self)]


@dataclass(frozen=True)
class Network:
    """One network of a member."""

    member: Member
    fold: int | None = None

    @property
    def name(self) -> str:
        """Its name in folders and tables."""
        return self.member.name if self.fold is None else f"{self.member.name}_fold{self.fold}"


def read_members(members: Mapping[str, Options], extra_overlays: Sequence[str] = ()) -> list[Member]:
    """Members from a config.

    Args:
        members: name -> the arguments of `Member`.
        extra_overlays: put on top of every member's overlays, e.g. `phantom`.

    Raises:
        InputError: if there is none, or one has unknown or missing entries.
    """
    if not members:
        raise InputError("self-training needs at least one member: take an overlay of configs/methods, or name one")
    known = {item.name for item in fields(Member)} - {"name"}
    read = []
    for name, options in members.items():
        unknown = sorted(set(options) - known)
        if unknown or "bundle" not in options:
            fault = f"an unknown entry '{unknown[0]}'" if unknown else "no 'bundle'"
            raise InputError(f"member '{name}' has {fault}: its entries are {', '.join(sorted(known))}")
        values = dict(options)
        values["overlays"] = _absolute([*values.get("overlays", ()), *extra_overlays])
        if values.get("inference_overlays") is not None:
            values["inference_overlays"] = _absolute([*values["inference_overlays"], *extra_overlays])
        member = Member(name, **values)
        for kind in ("train", "inference"):
            member.config_files(kind)
        read.append(member)
    return read


def training(
    network: Network,
    round_number: int,
    data_list: str | Path,
    folder: Path,
    options: Options,
    initial_weights: str | Path | None = None,
    processes: int = 1,
) -> tuple[list[str], dict[str, Any]]:
    """Config files and overrides of a network's training.

    Args:
        network: which.
        round_number: from 0 on.
        data_list: translated scans, and real ones with pseudo-labels.
        folder: of the results.
        options: overrides for all members (seed, number of folds, share of real samples, ...); the member's own come
            on top.
        initial_weights: `model.pt` to start from; None starts anew.
        processes: of the training.
    """
    files = network.member.config_files("train", processes)
    values = {**_epoch_length(files), **options, **network.member.options("train", round_number)}
    values |= {
        "data_list": str(data_list),
        "section": "source_training",
        "output_dir": str(folder),
        "ckpt_dir": str(folder / "model"),
        "initial_weights": str(initial_weights) if initial_weights else None,
        "fold": network.fold,
    }
    return files, values


def prediction(
    network: Network,
    round_number: int,
    checkpoint: str | Path,
    folder: Path,
    options: Options,
    view: Options | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Config files and overrides of a network's prediction, with class probabilities.

    Args:
        network: which.
        round_number: of the checkpoint.
        checkpoint: `model.pt`.
        folder: of the results.
        options: overrides that say what to predict (`input`, or `data_list` and `section`) and how.
        view: overrides of a further view.
    """
    values = {**options, **network.member.options("inference", round_number), **(view or {})}
    values |= {
        "ckpt_dir": str(Path(checkpoint).parent),
        "ckpt_paths": [str(checkpoint)],
        "output_dir": str(folder),
        "save_probabilities": True,
    }
    return network.member.config_files("inference"), values


def _overlay(configs: Path, name: str) -> Path:
    return Path(name).absolute() if _is_file_name(name) else configs / f"{name}.yaml"


def _absolute(names: Sequence[str]) -> list[str]:
    """Files get absolute paths, for `ensemble.json` is read from other working directories too."""
    return [str(Path(name).absolute()) if _is_file_name(name) else name for name in names]


def _is_file_name(name: str) -> bool:
    return str(name).endswith((".yaml", ".json"))


def _epoch_length(files: Sequence[str]) -> dict[str, str]:
    """Bundles whose epoch has a fixed number of iterations keep it; the others see each case once."""
    parser = ConfigParser()
    parser.read_config(list(files))
    return {"samples_per_epoch": "$@iterations_per_epoch * @batch_size"} if "iterations_per_epoch" in parser else {}
