#!/usr/bin/env python
"""Measure the segmentation of one scan, step by step, and compare the labels of its variants.

Each variant runs as `python -m monai.bundle run` does, in a process of its own: "ears" as configured (the localiser
on), "whole" without it, "ears float32" without half precision. Without --ckpt_dir the weights are random: good for
times, and the worst case for labels. Without --scan a phantom's ceT1 of 512x512x120 voxels is made.

    python scripts/bench_inference.py --threads 2
    python scripts/bench_inference.py --scan scan.nii.gz --ckpt_dir runs/model --label Label.nii.gz \
        --config_file inference methods/li2021 phantom --set roi_size=[-1,-1,-1]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

VARIANTS = {
    "ears": {"localise": True},
    "whole": {"localise": False},
    "ears float32": {"localise": True, "amp": False},
}
# What a transform's time counts as.
STEPS = {
    "LoadImaged": "load",
    "LocaliseEarsd": "localise",
    "Spacingd": "resample",
    "Activationsd": "back",
    "Invertd": "back",
    "AsDiscreted": "labels",
    "PostprocessLabelsd": "labels",
}
ORDER = ("start", "check", "load", "resample", "localise", "other preprocessing", "network", "back", "labels", "write")


class Stopwatch:
    """CPU and wall seconds by step."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)

    def run(self, step: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on a step's account."""
        cpu, wall = time.process_time(), time.time()
        try:
            return function(*args, **kwargs)
        finally:
            self.cpu[step] += time.process_time() - cpu
            self.wall[step] += time.time() - wall

    def watch(self, thing: Any, step: str) -> None:
        """Time each call of an object. It stays the same object, which the inverse of its transforms asks for."""
        kind = type(thing)

        def timed(instance: Any, *args: Any, **kwargs: Any) -> Any:
            return self.run(step, kind.__call__, instance, *args, **kwargs)

        thing.__class__ = type(kind.__name__, (kind,), {"__call__": timed})


def run_variant(config_files: list[str], values: dict[str, Any], began: float) -> dict[str, Any]:
    """Segment the scan in this process as the bundle's command does.

    Args:
        config_files: paths.
        values: what replaces theirs.
        began: when this process was started, as `time.time` says.

    Returns:
        CPU and wall seconds by step, and the peaks of memory in GiB: the process's, and the GPU's (0 without one).
    """
    import torch
    from monai.bundle import ConfigParser

    watch = Stopwatch()
    parser = ConfigParser()
    parser.read_config(config_files)
    for key, value in values.items():
        parser[key] = value
    parser.parse()
    parser.get_parsed_content("initialize")
    watch.run("check", parser.get_parsed_content, "dataset")
    evaluator = parser.get_parsed_content("evaluator")
    watch.cpu["start"] = time.process_time() - watch.cpu["check"]
    watch.wall["start"] = time.time() - began - watch.wall["check"]
    for transform in parser.get_parsed_content("preprocessing").transforms:
        watch.watch(transform, STEPS.get(type(transform).__name__, "other preprocessing"))
    for transform in parser.get_parsed_content("postprocessing").transforms:
        watch.watch(transform, STEPS.get(type(transform).__name__, "labels"))
    watch.watch(parser.get_parsed_content("save"), "write")
    watch.watch(parser.get_parsed_content("inferer"), "network")
    evaluator.run()
    memory = {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    memory["gpu_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return {"cpu": watch.cpu, "wall": watch.wall, **memory}


def in_own_process(config_files: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """`run_variant` in a fresh interpreter; also its whole CPU and wall seconds, from start to end."""
    began = time.time()
    words = [sys.executable, __file__, "--child", json.dumps([config_files, values, began])]
    threads = {} if values["threads"] is None else {"OMP_NUM_THREADS": str(values["threads"])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8", env={**os.environ, **threads}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.splitlines()[-1])
    found["wall"]["all"] = time.time() - began
    found["cpu"]["all"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


def phantom_scan(folder: Path) -> Path:
    """A London ceT1 of the full preset: 512x512x120 voxels of 0.41x0.41x1.5 mm."""
    from crossmoda.data import save_nifti
    from crossmoda.phantom.case import CaseSimulator

    simulator = CaseSimulator("ldn", "ceT1", "full")
    simulator.set_random_state(3)
    case = simulator(3)
    save_nifti(case.image, case.affine, folder / "phantom_ceT1.nii.gz")
    return folder / "phantom_ceT1.nii.gz"


def random_weights(config_files: list[str], values: dict[str, Any], folder: Path) -> None:
    """Write `model.pt` of the configured network, seed 0."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(config_files)
    for key, value in values.items():
        parser[key] = value
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")


def agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Dice of each class above 0 that is in either; share of the voxels with the same label."""
    out = {"same voxels": float((first == second).mean())}
    for c in sorted((set(np.unique(first)) | set(np.unique(second))) - {0}):
        a, b = first == c, second == c
        out[f"Dice of class {c}"] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return out


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Steps down, variants across: wall s (CPU s)."""
    print("\n| step | " + " | ".join(f"{name}: wall s (CPU s)" for name in results) + " |")
    print("|---|" + "---:|" * len(results))
    for step in (*ORDER, "all"):
        cells = (f"{r['wall'].get(step, 0):.1f} ({r['cpu'].get(step, 0):.1f})" for r in results.values())
        print(f"| {step} | " + " | ".join(cells) + " |")
    for name, key in (("peak GiB", "gib"), ("peak GiB on the GPU", "gpu_gib")):
        print(f"| {name} | " + " | ".join(f"{r[key]:.1f}" for r in results.values()) + " |", flush=True)


def surroundings(labels: np.ndarray) -> tuple[slice, ...]:
    """The box about all that is labelled; the whole grid if nothing is."""
    ends = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(None) for at in ends)


def told(values: dict[str, float]) -> str:
    """Names and numbers in a line."""
    return ", ".join(f"{key} {value:.4f}" for key, value in values.items())


def print_labels(labels: dict[str, np.ndarray], truth: np.ndarray | None) -> None:
    """Agreement of the variants' label maps with the first one's, also about its labels alone, and with the truth."""
    first, expected = next(iter(labels.items()))
    box = surroundings(expected)
    for name, found in labels.items():
        if name != first:
            print(f"{name} and {first}: {told(agreement(found, expected))}")
            print(f"{name} and {first}, in the latter's labels' box: {told(agreement(found[box], expected[box]))}")
        if truth is not None:
            print(f"{name} and truth: {told(agreement(found, truth))}")


def run(arguments: argparse.Namespace) -> None:
    """Measure all variants and print."""
    bundle = Path(__file__).resolve().parents[1] / "bundles" / arguments.bundle / "configs"
    config_files = [str(bundle / f"{name}.yaml") for name in arguments.config_file]
    values = {"threads": arguments.threads, "progress": False}
    values |= {key: yaml.safe_load(value) for key, value in (setting.split("=", 1) for setting in arguments.set)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values["input"] = str(Path(arguments.scan).resolve() if arguments.scan else phantom_scan(folder))
        values["ckpt_dir"] = str(Path(arguments.ckpt_dir).resolve() if arguments.ckpt_dir else folder)
        if not arguments.ckpt_dir:
            random_weights(config_files, values, folder)
        results, labels = {}, {}
        for name in arguments.variants:
            out = folder / name.replace(" ", "_")
            results[name] = in_own_process(config_files, {**values, **VARIANTS[name], "output_dir": str(out)})
            labels[name] = np.asarray(nib.load(next(out.glob("*_seg.nii.gz"))).dataobj)
        shape = next(iter(labels.values())).shape
        print(
            f"{'x'.join(map(str, shape))} voxels, {arguments.threads or 'all'} threads, load {os.getloadavg()[0]:.1f}"
        )
        print_table(results)
        print_labels(labels, np.asarray(nib.load(arguments.label).dataobj) if arguments.label else None)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="segmentation-2.5d", metavar="NAME")
    parser.add_argument(
        "--config_file", nargs="+", default=["inference"], metavar="NAME", help="in the bundle's configs"
    )
    parser.add_argument("--scan", metavar="FILE", help="a scan of your own")
    parser.add_argument("--label", metavar="FILE", help="its labels, in the network's classes")
    parser.add_argument("--ckpt_dir", metavar="DIR", help="folder of model.pt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further values of the configs")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # one variant, as JSON: the process that is measured
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_variant(*json.loads(arguments.child))))
        return
    run(arguments)


if __name__ == "__main__":
    main()
