"""Where a recipe's run keeps its results, and the settings of its bundle runs.

Light, because Snakemake reads the Snakefile again for every job on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
Options = dict[str, Any]

SOURCE, ORACLE = "source", "oracle"  # what a system may be trained on beside translators' volumes
TRANSLATION, SEGMENTATION = "translation", "segmentation"
GEOMETRY, COMBINATION = "geometry", "combination"  # methods that grade, beside the classifiers
PREPARED, PREPARATION = "prepared", "preparation"  # overlays of the bundles: prepared volumes, raw scans


class Pipeline:
    """Paths and settings that the Snakefile and `predict.py` share; reads nothing from disk.

    Args:
        config: of the Snakefile: a recipe of its form (`demo.yaml`), or what `resolve` made.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run = Path(config["output_dir"])
        self.translators: Config = config["translators"]
        self.views: Config = config.get("views") or {}
        self.systems: Config = config["systems"]
        self.self_trainings: Config = config.get("self_training") or {}
        self.fusions: Config = config.get("fusions") or {}
        self.preparation: Config = config.get("preparation") or {}
        self.koos: Config = config.get("koos") or {}

    # --- data -----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """The data list of the scans as they came."""
        return Path(self.config["data_list"]) if "data_list" in self.config else self.run / "datalist.json"

    @property
    def truth(self) -> Path | None:
        """The data list with the hidden truth, for bounds and judgement; None without."""
        if self.config.get("truth_list"):
            return Path(self.config["truth_list"])
        known = "phantom" in self.config or self.config.get("truth")
        return self.run / "oracle.json" if known else None

    @property
    def prepared(self) -> Path:
        """The folder of `prepare.py`."""
        return self.run / "prepared"

    def is_prepared(self, stage: str) -> bool:
        """Whether a stage, `translation` or `segmentation`, works on prepared volumes."""
        return bool(self.preparation) and stage in self.preparation["of"]

    def scans(self, stage: str) -> Path:
        """The data list that a stage trains on."""
        return self.prepared / "datalist.json" if self.is_prepared(stage) else self.data

    def true_scans(self) -> Path | None:
        """The data list with the truth on the grid that networks are trained on."""
        if self.truth is not None and self.is_prepared(SEGMENTATION):
            return self.run / "prepared_truth" / "datalist.json"
        return self.truth

    def images(self, source: str) -> Path:
        """The data list of images with labels: `source`, `oracle`, or the volumes of a translator or a view."""
        if source == SOURCE:
            return self.scans(SEGMENTATION)
        if source == ORACLE:
            return self.true_scans()
        return self.run / "translation" / source / "volumes" / "datalist.json"

    # --- translation ----------------------------------------------------------------------------------------------

    def translator_model(self, name: str) -> Path:
        """The folder of the weights that a translator uses: its own, or those of the one it names as `model`."""
        return self.run / "translation" / self.translators[name].get("model", name) / "model"

    def translator_overlays(self, name: str) -> list[str]:
        """Overlays of a translator's training."""
        return [*self.translators[name]["overlays"], *([PREPARED] if self.is_prepared(TRANSLATION) else [])]

    def translation(self, name: str) -> tuple[Path, list[str], Options]:
        """What is translated, the overlays and the overrides of a translator's inference."""
        if self.is_prepared(TRANSLATION) and not self.is_prepared(SEGMENTATION):
            overlays = [*self.translators[name]["overlays"], PREPARATION]
            return self.data, overlays, {"preparation": self.prepared}
        return self.scans(TRANSLATION), self.translator_overlays(name), {}

    # --- segmentation ---------------------------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        """The folder of a system, a self-training or a fusion."""
        kinds = {"segmentation": self.systems, "self_training": self.self_trainings, "fusion": self.fusions}
        return self.run / next(kind for kind, names in kinds.items() if name in names) / name

    def predictions(self, name: str) -> Path:
        """The folder of its label maps."""
        return self.folder(name) if name in self.fusions else self.folder(name) / "predictions"

    def result(self, name: str) -> Path:
        """What says that a system, a self-training or a fusion has segmented the validation scans.

        With the hidden truth its measures; without it a mark.
        """
        return self.predictions(name) / ("metrics.csv" if self.truth else "predicted")

    def rounds(self, name: str) -> Path:
        """The judgement of each round of a self-training, with the truth."""
        return self.folder(name) / "evaluation" / "rounds.json"

    def networks(self, system: str) -> list[Path]:
        """The folders of a system's trainings: one, or one a fold."""
        folds = self.systems[system].get("folds")
        folder = self.folder(system)
        return [folder] if folds is None else [folder / f"fold{fold}" for fold in folds]

    def weights(self, system: str) -> Options:
        """Overrides of an inference that name a system's weights, and the folder where it looks for its reference."""
        folder = {"ckpt_dir": self.folder(system) / "model"}
        if self.systems[system].get("folds") is None:
            return folder
        return {**folder, "ckpt_paths": [str(path / "model" / "model.pt") for path in self.networks(system)]}

    def training_overlays(self, system: str) -> list[str]:
        """Overlays of a system's training."""
        return [*self.systems[system]["overlays"], *([PREPARED] if self.is_prepared(SEGMENTATION) else [])]

    def inference_overlays(self, system: str) -> list[str]:
        """Overlays of a system's inference on raw scans."""
        return [*self.systems[system]["inference_overlays"], *([PREPARATION] if self.is_prepared(SEGMENTATION) else [])]

    def inference_options(self, system: str) -> Options:
        """Overrides of a system's inference on raw scans, beside weights, scans and folder."""
        fused = any(system in fusion["members"] for fusion in self.fusions.values())
        return {
            **({"preparation": self.prepared} if self.is_prepared(SEGMENTATION) else {}),
            **({"save_probabilities": True} if fused else {}),
            **self.systems[system].get("infer", {}),
        }

    # --- self-training --------------------------------------------------------------------------------------------

    def self_training_options(self, name: str) -> Options:
        """Overrides of the rounds, beside seed and tracking."""
        entry = self.self_trainings[name]
        teachers = {
            member: [str(folder / "model" / "model.pt") for folder in self.networks(system)]
            for member, system in self.teachers(name).items()
        }
        views = {"views": entry["views"]} if "views" in entry else {}
        members = {system: self._member(system) | views for system in entry.get("members", ())}
        extra = [PREPARED] if self.is_prepared(SEGMENTATION) else []
        return {
            "data_list": self.scans(SEGMENTATION),
            "translated": {source: str(self.images(source)) for source in entry["translated"]},
            "teachers": teachers or None,
            "output_dir": self.folder(name),
            **({"members": members} if members else {}),
            **({"extra_overlays": extra} if extra or members else {}),
            **entry.get("train", {}),
        }

    def weight_files(self, name: str) -> list[Path]:
        """The checkpoints of a result's networks; of a self-training its `ensemble.json`, which names them."""
        if name in self.self_trainings:
            return [self.folder(name) / "ensemble.json"]
        systems = self.fusions[name]["members"] if name in self.fusions else [name]
        return [folder / "model" / "model.pt" for system in systems for folder in self.networks(system)]

    def divides_tumour(self, name: str) -> bool:
        """Whether a result's labels tell the tumour's parts apart: 1 extra-, 2 intra-meatal, 3 cochlea."""
        if name in self.self_trainings:
            return self.self_trainings[name].get("train", {}).get("classes::cochlea") == 3
        systems = self.fusions[name]["members"] if name in self.fusions else [name]
        return all("methods/three_class" in self.systems[system]["overlays"] for system in systems)

    def teachers(self, name: str) -> dict[str, str]:
        """Member of a self-training -> the system whose networks are its teachers."""
        entry = self.self_trainings[name]
        return {system: system for system in entry.get("members", ())} | dict(entry.get("teachers") or {})

    def _member(self, system: str) -> Options:
        """A system as a member of the rounds, with all its overlays: none are to come on top of it."""
        entry = self.systems[system]
        member = {"bundle": entry["bundle"], "overlays": list(entry["overlays"])}
        member |= {key: entry[key] for key in ("train", "infer", "folds") if entry.get(key) is not None}
        return member

    def ensemble_options(self, name: str) -> Options:
        """Overrides of the inference of a self-training's ensemble on raw scans, beside scans and folder."""
        return {
            "ensemble": self.folder(name) / "ensemble.json",
            **({"preparation": self.prepared} if self.is_prepared(SEGMENTATION) else {}),
            **self.rounds_options(name),
        }

    def rounds_options(self, name: str) -> Options:
        """Overrides that all predictions of a self-training's ensembles have."""
        entry = self.self_trainings[name]
        rules = {"postprocessing_rules": entry["postprocessing"]} if "postprocessing" in entry else {}
        return rules | entry.get("infer", {})

    # --- results --------------------------------------------------------------------------------------------------

    def inference(self, name: str) -> tuple[str, list[str], Options]:
        """The bundle of a system or a self-training, the overlays and the overrides of its inference on raw scans.

        Scans and folder come on top.
        """
        if name in self.self_trainings:
            return "self-training", [], self.ensemble_options(name)
        options = {**self.weights(name), **self.inference_options(name)}
        return self.systems[name]["bundle"], self.inference_overlays(name), options

    @property
    def comparer(self) -> str | None:
        """The system or self-training that says whether a scan is unlike the training's target scans.

        It is the recipe's result, of a fusion its first member: what others see of the scan is the same. None where a
        recipe names no result.
        """
        final = self.config.get("final")
        return self.fusions[final]["members"][0] if final in self.fusions else final

    @property
    def reference(self) -> Path:
        """What those scans look like to the comparer: where its inference looks for it."""
        folder = self.folder(self.comparer)
        return (folder if self.comparer in self.self_trainings else folder / "model") / "reference.json"

    # --- Koos grades ----------------------------------------------------------------------------------------------

    @property
    def koos_networks(self) -> Config:
        """The classifiers of a recipe with grades; Han's alone if it names none."""
        return self.koos.get("networks") or {"msf_koos_net": {}}

    @property
    def koos_methods(self) -> list[str]:
        """The classifiers, the geometric baseline and the combination, of which a recipe may have the last two."""
        return [*self.koos_networks, *(name for name in (GEOMETRY, COMBINATION) if name in self.koos)]

    @property
    def koos_method(self) -> str:
        """The method whose grades count: `final`, or else the combination, or else the first classifier."""
        default = COMBINATION if COMBINATION in self.koos else next(iter(self.koos_networks))
        return self.koos.get("final", default)

    @property
    def koos_network(self) -> str | None:
        """The classifier in the method whose grades count; None if that is the geometric baseline alone."""
        method = self.koos_method
        return {COMBINATION: self.koos.get(COMBINATION), GEOMETRY: None}.get(method, method)

    def koos_seeds(self, method: str) -> list[int]:
        """Seeds of a method: those that a network names, or all; a combination has its network's."""
        network = self.koos[COMBINATION] if method == COMBINATION else method
        return self.koos_networks.get(network, {}).get("seeds", self.koos.get("seeds", [self.config["seed"]]))

    def koos_folds(self) -> list[int]:
        """The folds of each classifier."""
        return list(range(self.koos.get("folds", 5)))

    def koos_overlays(self, network: str) -> list[str]:
        """Overlays of all stages of a classifier."""
        return [*self.koos_networks[network].get("overlays", []), *self.koos.get("overlays", [])]

    def koos_folder(self, method: str | None = None, seed: int | str | None = None) -> Path:
        """The folder of a method and seed: of the grades that count, if they are left out."""
        seed = self.koos_seeds(method or self.koos_method)[0] if seed is None else seed
        return self.run / "koos" / (method or self.koos_method) / f"seed{seed}"

    def koos_fold_folders(self, network: str, seed: int | str | None = None) -> list[Path]:
        """The folders of a classifier's folds; the seed of the grades that count if it is left out."""
        seed = self.koos_seeds(self.koos_method)[0] if seed is None else seed
        return [self.koos_folder(network, seed) / f"fold{fold}" for fold in self.koos_folds()]

    def koos_weights(self, network: str, seed: int | str | None = None) -> list[str]:
        """The weights of a classifier's folds, see `koos_fold_folders`."""
        return [str(folder / "model" / "model.pt") for folder in self.koos_fold_folders(network, seed)]
