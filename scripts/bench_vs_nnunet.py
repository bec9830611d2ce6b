"""Our nnU-Net (bundle segmentation-3d) beside nnunetv2: same scans, plan, split, batch and number of iterations.

Both are trained and both segment the test scans in one run, in turns (an epoch each, a scan each), so that a busy
machine slows both alike. Each has its own augmentation, loss, optimizer, sliding window and memory layout; the plan is
ours from the training scans (equal to nnunetv2's own, see tests/planning). Printed as a markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import nibabel as nib
import numpy as np
import yaml

from crossmoda.bundle import bundle_root
from crossmoda.data import load_datalist, save_nifti, split_cases, write_datalist, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.planning import Plan, extract_fingerprint, plan_experiment, plan_overlay

EPILOG = """\
  python3.11 -m venv nnunet && nnunet/bin/pip install nnunetv2
  make_phantom.py --preset demo --output phantom --validation 12
  make_datalist.py phantom --truth phantom/truth --output oracle.json
  bench_vs_nnunet.py --data_list oracle.json --nnunet_python nnunet/bin/python

Seconds are medians over epochs (the first left out) and over scans; ratios are medians of the turns' own ratios. An
iteration includes reading and augmenting its patches; a scan goes from file to file. CPU seconds are those of the main
process: on a busy machine, with one thread and no augmenting processes, they are steadier than the clock.

On a CPU nnunetv2 computes in float32, ours in bfloat16 (--set amp=false: float32), and PyTorch has no fast float32
convolution for some single small windows, which nnunetv2's inference uses: its ratio there says little about a GPU.
Exit code: 0 done, 2 nothing run.
"""
WORKER = Path(__file__).with_name("bench_nnunet_worker.py")
SIDES = ("ours", "nnunetv2")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_list", required=True, metavar="FILE", help="with labels in both sections")
    parser.add_argument("--section", default="target_training", help="to train on (%(default)s)")
    parser.add_argument("--test_section", default="target_validation", help="to segment (%(default)s)")
    parser.add_argument("--train_cases", type=int, metavar="N", help="first so many of the former; default: all")
    parser.add_argument("--test_cases", type=int, metavar="N", help="first so many of the latter; default: all")
    parser.add_argument("--nnunet_python", required=True, metavar="PATH", help="of an environment with nnunetv2")
    parser.add_argument(
        "--roi", type=int, nargs=3, default=[128, 96, 32], metavar="N", help="voxels about the centre that both see"
    )
    parser.add_argument("--memory_gb", type=float, default=0.5, help="that is planned for (%(default)s)")
    parser.add_argument(
        "--base_features", type=int, default=16, help="of the finest stage; nnU-Net has 32 (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=12, help="turns of training (%(default)s)")
    parser.add_argument("--iterations", type=int, default=25, help="of an epoch (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (%(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that augment; 0 times them (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change an entry of our config"
    )
    parser.add_argument("--output_dir", metavar="DIR", help="keep what is made; default: a temporary folder")
    return parser.parse_args(argv)


# --- our side, in a process of its own -------------------------------------------------------------------------------


def work(step: str, path: str) -> None:
    """Train or predict with the bundle, in turns; what `python -m monai.bundle run` does, with handlers added."""
    from bench_nnunet_worker import Turns
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    task = json.loads(Path(path).read_text(encoding="utf-8"))
    turns = Turns()
    configs = Path(bundle_root("segmentation-3d")) / "configs"
    kind, name = ("train", "train::trainer") if step == "train" else ("inference", "evaluator")
    files = [str(configs / f"{kind}.yaml"), task["plan_file"], task[f"{kind}_file"]]
    workflow = ConfigWorkflow(files, workflow_type="train" if step == "train" else "infer")
    workflow.initialize()
    engine = workflow.parser.get_parsed_content(name)
    if step == "train":
        losses: list[float] = []
        start, finish = Events.EPOCH_STARTED, Events.ITERATION_COMPLETED(every=task["iterations"])
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: losses.append(float(engine.state.output[0]["loss"]))
        )
        engine.add_event_handler(finish, lambda: turns.done(loss=float(np.mean(losses[-task["iterations"] :]))))
    else:
        start, finish = Events.GET_BATCH_STARTED, Events.ITERATION_COMPLETED
        engine.add_event_handler(finish, lambda: turns.done())
    engine.add_event_handler(start, turns.wait)
    workflow.run()
    if step == "train":
        turns.done()


# --- the comparison --------------------------------------------------------------------------------------------------


def cropped(items: list[dict], roi: list[int], folder: Path) -> list[dict]:
    """Copies of scans and labels about their centre, for both sides to read."""
    copies = []
    for item in items:
        copy = {"case": item["case"], "site": item["site"]}
        for key in ("image", "label"):
            image = nib.load(item[key])
            low = [max((size - wanted) // 2, 0) for size, wanted in zip(image.shape, roi, strict=True)]
            cut = image.slicer[tuple(slice(start, start + wanted) for start, wanted in zip(low, roi, strict=True))]
            copy[key] = str(folder / f"{item['case']}_{key}.nii.gz")
            save_nifti(np.asanyarray(cut.dataobj), cut.affine, copy[key])
        copies.append(copy)
    return copies


def make_plan(items: list[dict], arguments: argparse.Namespace) -> Plan:
    """By nnU-Net's rules, with fewer features."""
    plan = plan_experiment(extract_fingerprint(items), memory_gb=arguments.memory_gb)
    factor = arguments.base_features / plan.features[0]
    return replace(plan, features=tuple(round(features * factor) for features in plan.features))


def write_tasks(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Plan]:
    """Scans, plan and settings for both sides."""
    train_items, test_items = (
        cropped(
            load_datalist(arguments.data_list, section, require_label=True)[:count], arguments.roi, folder / "scans"
        )
        for section, count in (
            (arguments.section, arguments.train_cases),
            (arguments.test_section, arguments.test_cases),
        )
    )
    data_list = folder / "datalist.json"
    write_datalist({"target_training": train_items, "target_validation": test_items}, data_list)
    plan = make_plan(train_items, arguments)
    if plan.slice_axis != 2:
        raise InputError("the scans' slices must lie across z")
    write_text(plan_overlay(plan), folder / "plan.yaml")
    train_part, val_part = split_cases(train_items, 0.1, arguments.seed)
    shared = {"data_list": str(data_list), "device": f"$torch.device('{arguments.device}')", "progress": False}
    shared |= {"threads": arguments.threads, "ckpt_dir": str(folder / "ours_model")}
    shared |= {name: yaml.safe_load(value) for name, _, value in (entry.partition("=") for entry in arguments.set)}
    train_config = shared | {"section": "target_training", "output_dir": str(folder / "ours_training"), "resume": False}
    train_config |= {"val_fraction": 0.1, "seed": arguments.seed, "num_workers": arguments.num_workers}
    train_config |= {"max_epochs": arguments.epochs, "iterations_per_epoch": arguments.iterations}
    train_config["val_interval"] = arguments.epochs
    inference_config = shared | {"section": "target_validation", "output_dir": str(folder / "ours_predictions")}
    inference_config["localise"] = False  # nnU-Net's windows cover the whole scan, so ours do too
    for name, config in (("train", train_config), ("inference", inference_config)):
        write_text(json.dumps(config), folder / f"{name}.json")
    task = {"folder": str(folder), "plan": nnunet_plan(plan), "plan_file": str(folder / "plan.yaml"), "overlap": 0.5}
    task |= {"train_file": str(folder / "train.json"), "inference_file": str(folder / "inference.json")}
    task |= {
        key: getattr(arguments, key) for key in ("epochs", "iterations", "threads", "num_workers", "device", "seed")
    }
    return task | {"train": train_part, "val": val_part, "test": test_items}, plan


def nnunet_plan(plan: Plan) -> dict[str, Any]:
    """The plan's numbers in nnU-Net's axes, (z, y, x)."""
    numbers = {key: list(getattr(plan, key))[::-1] for key in ("spacing", "patch_size")}
    numbers |= {key: [list(row)[::-1] for row in getattr(plan, key)] for key in ("strides", "kernel_sizes")}
    numbers |= {"batch_size": plan.batch_size, "batch_dice": plan.batch_dice, "features": list(plan.features)}
    return numbers | {"mirror_axes": sorted(2 - axis for axis in plan.mirror_axes)}


class Worker:
    """One side's process; its output goes to a log."""

    def __init__(self, command: list[str], log: TextIO) -> None:
        environment = os.environ | {"PYTHONPATH": str(WORKER.parent), "PYTHONUNBUFFERED": "1"}
        self.log = log.name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )

    def turn(self) -> dict[str, float]:
        """Let it work for a turn; returns its report."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.report()

    def report(self) -> dict[str, float]:
        """Wait for its next report."""
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"a side of the comparison failed: see {self.log}")
        return json.loads(line)


@contextmanager
def workers(step: str, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Worker]]:
    """Both sides, for one step."""
    task = str(folder / "task.json")
    commands = {
        "ours": [sys.executable, __file__, "--work", step, task],
        "nnunetv2": [arguments.nnunet_python, str(WORKER), step, task],
    }
    sides: dict[str, Worker] = {}
    with (folder / f"{step}_ours.log").open("w") as ours, (folder / f"{step}_nnunetv2.log").open("w") as theirs:
        try:
            for side, log in zip(SIDES, (ours, theirs), strict=True):
                sides[side] = Worker(commands[side], log)
            yield sides
        finally:
            for worker in sides.values():
                worker.process.stdin.close()
                worker.process.wait()


def in_turns(sides: dict[str, Worker], count: int, what: str) -> dict[str, list[dict[str, float]]]:
    """Let both work so many turns; who begins changes each time."""
    reports: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(count):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            reports[side].append(sides[side].turn())
        shown = ", ".join(f"{side} {reports[side][-1]['seconds']:.1f} s" for side in SIDES)
        losses = [f"{reports[side][-1].get('loss', np.nan):.3f}" for side in SIDES]
        print(f"{what} {turn + 1}/{count}: {shown}, loss {' / '.join(losses)}", file=sys.stderr, flush=True)
    return reports


def dice(folder: Path, test_items: list[dict]) -> dict[str, np.ndarray]:
    """Dice of VS and cochlea for each side and case, shape (cases, 2)."""
    names = {"ours": "ours_predictions/{}_seg.nii.gz", "nnunetv2": "nnunet_predictions/{}.nii.gz"}
    scores = {}
    for side, pattern in names.items():
        rows = []
        for item in test_items:
            truth = np.asanyarray(nib.load(item["label"]).dataobj)
            found = np.asanyarray(nib.load(folder / pattern.format(item["case"])).dataobj)
            pairs = [(truth == label, found == label) for label in (1, 2)]
            rows.append([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs])
        scores[side] = np.array(rows)
    return scores


def table(
    training: dict[str, list[dict]], inference: dict[str, list[dict]], scores: dict[str, np.ndarray], iterations: int
) -> str:
    """The comparison in markdown."""
    lines = ["| | ours | nnunetv2 | nnunetv2 / ours |", "|---|---|---|---|"]
    for what, reports, first, share in (("an iteration", training, 1, iterations), ("a scan", inference, 0, 1)):
        for name, key in (("seconds", "seconds"), ("CPU seconds", "cpu")):
            own, theirs = ([report[key] / share for report in reports[side][first:]] for side in SIDES)
            ratio = median(b / a for a, b in zip(own, theirs, strict=True))
            lines.append(f"| {name} {what} | {median(own):.3f} | {median(theirs):.3f} | {ratio:.2f} |")
    for name, reports in (("peak GiB, training", training), ("peak GiB, inference", inference)):
        own, theirs = (reports[side][-1]["gib"] for side in SIDES)
        lines.append(f"| {name} | {own:.2f} | {theirs:.2f} | {theirs / own:.2f} |")
    for index, name in enumerate(("VS", "cochlea")):
        own, theirs = (scores[side][:, index].mean() for side in SIDES)
        lines.append(f"| Dice {name} | {own:.3f} | {theirs:.3f} | {theirs - own:+.3f} (difference) |")
    return "\n".join(lines)


def compare(arguments: argparse.Namespace, folder: Path) -> str:
    """Prepare, train, segment, judge."""
    task, plan = write_tasks(arguments, folder)
    write_text(json.dumps(task), folder / "task.json")
    with (folder / "prepare_nnunetv2.log").open("w") as log:
        preparation = Worker([arguments.nnunet_python, str(WORKER), "prepare", str(folder / "task.json")], log)
        if preparation.process.wait():
            raise InputError(f"nnunetv2 could not prepare the scans: see {log.name}")
    started = time.perf_counter()
    with workers("train", arguments, folder) as sides:
        training = in_turns(sides, arguments.epochs, "epoch")
        for worker in sides.values():
            worker.report()  # weights are written
    with workers("predict", arguments, folder) as sides:
        inference = in_turns(sides, len(task["test"]), "scan")
    scores = dice(folder, task["test"])
    edges = " x ".join(map(str, plan.patch_size))
    head = (
        f"{len(task['train'])} scans to train, {len(task['test'])} to segment; patch {edges}, batch {plan.batch_size},"
        f" features {', '.join(map(str, plan.features))}; {arguments.epochs} x {arguments.iterations} iterations;"
        f" {arguments.device}, {arguments.threads} thread(s), {arguments.num_workers} augmenting processes;"
        f" {(time.perf_counter() - started) / 60:.0f} minutes"
    )
    result = f"{head}\n\n{table(training, inference, scores, arguments.iterations)}\n"
    reports = {"training": training, "inference": inference, "dice": {side: scores[side].tolist() for side in SIDES}}
    write_text(json.dumps(reports), folder / "reports.json")
    write_text(result, folder / "table.md")
    return result


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Compare; returns the exit code."""
    arguments = parse_arguments(argv)
    if min(arguments.epochs, arguments.iterations, *arguments.roi) < 1 or arguments.epochs < 2:
        raise InputError("--epochs must be 2 or more, --iterations and --roi 1 or more")
    probe = subprocess.run([arguments.nnunet_python, "-c", "import nnunetv2"], capture_output=True)
    if probe.returncode:
        raise InputError(f"--nnunet_python {arguments.nnunet_python}: nnunetv2 can't be imported with it")
    if arguments.output_dir:
        folder = Path(arguments.output_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        print(compare(arguments, folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(compare(arguments, Path(folder)))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main())
