"""nnunetv2's side of bench_vs_nnunet.py, which starts it with the Python of an environment that has nnunetv2.

    bench_nnunet_worker.py prepare|train|predict TASK.json

It imports nothing of ours. Trainer, loss, augmentation, network and predictor are nnunetv2's own; only the plan's
numbers, the split and the lengths are set. It works when told to on stdin, and reports on stdout, one line a turn.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

# torchvision is there for networks that are not used here; a CUDA build of it fails on a CPU at import.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))

DATASET = "Dataset001_Bench"
PLANS = "nnUNetPlans"
FOLDERS = RAW, PREPROCESSED, _ = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"


class Turns:
    """Waits for its turn, and tells how long it took."""

    def __init__(self) -> None:
        self.channel = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever else is printed goes to the log
        self.start()

    def start(self) -> None:
        """A turn begins here."""
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def wait(self) -> None:
        """Block until the parent says so."""
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended")
        self.start()

    def done(self, **more: Any) -> None:
        """Report the seconds since the turn began, on the clock and of this process's CPU, and the peak memory."""
        times = {"seconds": time.perf_counter() - self.started, "cpu": time.process_time() - self.cpu_started}
        self.channel.write(json.dumps(times | {"gib": peak_gib(), **more}) + "\n")


def peak_gib() -> float:
    """Peak memory of this process: allocated on the GPU by torch, or on a CPU the resident set."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1024**3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def set_up(task: dict[str, Any], step: str) -> None:
    """nnunetv2 reads its folders and processes from the environment, at import."""
    settings = {name: str(Path(task["folder"]) / name) for name in FOLDERS}
    augmenting = max(task["num_workers"], 1 if step == "prepare" else 0)  # the planner wants one at least
    os.environ.update(settings | {"nnUNet_n_proc_DA": str(augmenting), "nnUNet_def_n_proc": "1"})
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    torch.manual_seed(task["seed"])


def prepare(task: dict[str, Any]) -> None:
    """Lay the scans out as nnU-Net wants them, fingerprint, plan, put the common plan in, preprocess."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    raw = Path(task["folder"], RAW, DATASET)
    for item in task["train"] + task["val"]:
        for key, folder, ending in (("image", "imagesTr", "_0000.nii.gz"), ("label", "labelsTr", ".nii.gz")):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item[key], raw / folder / (item["case"] + ending))
    labels = {"background": 0, "VS": 1, "cochlea": 2}
    count = len(task["train"] + task["val"])
    content = {"channel_names": {"0": "T2"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))
    DatasetFingerprintExtractor(DATASET, 1).run()
    ExperimentPlanner(DATASET).plan_experiment()

    folder = Path(task["folder"], PREPROCESSED, DATASET)
    path = folder / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    if plans["transpose_forward"] != [0, 1, 2]:
        sys.exit("nnU-Net transposes these scans; the comparison is for slices across z")
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {key: task["plan"][key] for key in ("spacing", "patch_size", "batch_size", "batch_dice")}
    stages = len(task["plan"]["strides"])
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": task["plan"]["features"],
        "strides": task["plan"]["strides"],
        "kernel_sizes": task["plan"]["kernel_sizes"],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    path.write_text(json.dumps(plans))
    names = {part: [item["case"] for item in task[part]] for part in ("train", "val")}
    (folder / "splits_final.json").write_text(json.dumps([names]))
    DefaultPreprocessor(verbose=False).run(DATASET, "3d_fullres", PLANS, num_processes=1)


def read_plans(task: dict[str, Any]) -> tuple[dict, dict]:
    """The plans and nnU-Net's description of the data."""
    folder = Path(task["folder"], PREPROCESSED, DATASET)
    dataset = json.loads(Path(task["folder"], RAW, DATASET, "dataset.json").read_text())
    return json.loads((folder / f"{PLANS}.json").read_text()), dataset


def train(task: dict[str, Any], turns: Turns) -> None:
    """nnU-Net's trainer, an epoch a turn."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class BenchTrainer(nnUNetTrainer):
        def on_train_epoch_start(self) -> None:
            turns.wait()
            super().on_train_epoch_start()
            turns.start()

        def on_train_epoch_end(self, train_outputs: list) -> None:
            turns.done(loss=float(sum(output["loss"] for output in train_outputs) / len(train_outputs)))
            super().on_train_epoch_end(train_outputs)

    plans, dataset = read_plans(task)
    trainer = BenchTrainer(plans | {"continue_training": False}, "3d_fullres", 0, dataset, torch.device(task["device"]))
    trainer.num_epochs, trainer.num_iterations_per_epoch = task["epochs"], task["iterations"]
    trainer.num_val_iterations_per_epoch, trainer.save_every = 1, task["epochs"]
    trainer.run_training()
    torch.save(trainer.network.state_dict(), Path(task["folder"]) / "nnunet.pt")
    turns.done()


def predict(task: dict[str, Any], turns: Turns) -> None:
    """nnU-Net's predictor, a case a turn, from file to file."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans, dataset = read_plans(task)
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 3, enable_deep_supervision=False)
    network.load_state_dict(torch.load(Path(task["folder"]) / "nnunet.pt", weights_only=True, map_location="cpu"))
    device = torch.device(task["device"])
    predictor = nnUNetPredictor(
        tile_step_size=1 - task["overlap"],
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    mirror_axes = tuple(task["plan"]["mirror_axes"])
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "nnUNetTrainer", mirror_axes
    )
    output = Path(task["folder"]) / "nnunet_predictions"
    output.mkdir(exist_ok=True)
    for item in task["test"]:
        turns.wait()
        predictor.predict_from_files_sequential([[item["image"]]], [str(output / item["case"])], overwrite=True)
        turns.done()


def main() -> None:
    """Do one step of the comparison."""
    step, path = sys.argv[1:]
    task = json.loads(Path(path).read_text())
    turns = Turns()
    set_up(task, step)
    if step == "prepare":
        prepare(task)
    else:
        {"train": train, "predict": predict}[step](task, turns)


if __name__ == "__main__":
    main()
