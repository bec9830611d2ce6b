"""Measure the training step of every translator: seconds a step and peak memory, on random slices.

One row a method, slice size and setting, each in its own process. A step is the trainer's own: both updates, with all
losses that a late epoch has. Memory is what torch has allocated on a GPU, and the process's peak on a CPU. Methods
keep their own batch size, features and loss weights unless told otherwise; without VGG-19 weights msf_net runs without
its perceptual loss, and says so.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from crossmoda.bundle import bundle_root
from crossmoda.engines import TranslationTrainer

GIB = 1024**3


@dataclass(frozen=True)
class Job:
    """One row: a method in a setting; None leaves the method's own value."""

    method: str
    size: int
    amp: bool
    channels_last: bool
    compiled: bool
    steps: int
    warmup: int
    device: str
    batch_size: int | None = None
    features: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        batch_size: slices a step.
        parameters: of all networks, in millions.
        first: seconds of the first step, compilation included.
        seconds: median seconds of a step after the warm-up.
        memory: peak in GiB.
    """

    batch_size: int
    parameters: float
    first: float
    seconds: float
    memory: float


class StepTimer:
    """Trainer handler: seconds of each step, without the loading of its batch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self) -> None:
        self.started = self._now()

    def _stop(self) -> None:
        self.seconds.append(self._now() - self.started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class LastEpoch:
    """Trainer handler: tells the objective that it is the last epoch, when all losses are there."""

    def __init__(self, objective: torch.nn.Module, epoch: int) -> None:
        self.objective = objective
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.objective.start_epoch(self.epoch))


def read_config(job: Job) -> ConfigParser:
    """train.yaml with the method's overlay and the job's setting."""
    configs = Path(bundle_root("translation")) / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / "train.yaml"), str(configs / "methods" / f"{job.method}.yaml")])
    changes: dict[str, Any] = {"device": f"$torch.device('{job.device}')", "channels_last": job.channels_last}
    changes |= {"compile": job.compiled, "amp": job.amp}
    changes |= {key: value for key in ("batch_size", "features") if (value := getattr(job, key)) is not None}
    if "discriminator_layers" in parser:  # msf_net's, which small slices do not get through
        fitting = max(layers for layers in range(1, parser["discriminator_layers"] + 1) if 3 * 2**layers <= job.size)
        changes["discriminator_layers"] = fitting
        changes["discriminator_crop"] = min(parser["discriminator_crop"], job.size)
    parser.update(changes)
    return parser


def random_batch(parser: ConfigParser, size: int) -> dict[str, torch.Tensor]:
    """Slices with labels, and whatever else the config asks of the data."""
    count = parser.get_parsed_content("batch_size")
    images, labels = (count, parser.get_parsed_content("slices"), size, size), (count, 1, size, size)
    batch = {name: torch.rand(images) * 2 - 1 for name in ("source", "target")}
    batch["source_label"] = torch.randint(3, labels).to(torch.uint8)
    if parser.get_parsed_content("parcellation"):
        batch["source_parcellation"] = torch.randint(parser["parcellation_classes"], labels).to(torch.uint8)
    if sites := parser.get_parsed_content("sites"):
        batch |= {f"{domain}_site": torch.randint(len(sites), (count,)) for domain in ("source", "target")}
    return batch


def measure(job: Job) -> Row:
    """Train for a few steps in this process."""
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    if job.threads:
        torch.set_num_threads(job.threads)
    parser = read_config(job)
    objective = parser.get_parsed_content("objective")
    device = parser.get_parsed_content("device")
    timer = StepTimer(device)
    trainer = TranslationTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[random_batch(parser, job.size) for _ in range(job.warmup + job.steps)],
        objective=objective,
        generator_optimizer=parser.get_parsed_content("generator_optimizer"),
        discriminator_optimizer=parser.get_parsed_content("discriminator_optimizer"),
        amp=job.amp,
        train_handlers=[timer, LastEpoch(objective, parser.get_parsed_content("max_epochs"))],
        decollate=False,
    )
    trainer.run()
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / GIB
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    parameters = sum(parameter.numel() for parameter in objective.parameters()) / 1e6
    seconds = statistics.median(timer.seconds[job.warmup :])
    return Row(parser.get_parsed_content("batch_size"), parameters, timer.seconds[0], seconds, memory)


def measure_apart(job: Job) -> Row | str:
    """The row of a job, measured in a fresh process, or in a word why there is none."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, job).result()
        except (torch.cuda.OutOfMemoryError, BrokenProcessPool):
            return "out of memory"


def line(job: Job, row: Row | str) -> str:
    """A line of the table."""
    setting = " ".join(f"{'on' if on else 'off':<8}" for on in (job.amp, job.channels_last, job.compiled))
    if isinstance(row, str):
        return f"{job.method:<19}{job.size:>5}             {setting} {row}"
    return (
        f"{job.method:<19}{job.size:>5}{row.batch_size:>6}{row.parameters:>7.1f}  {setting}"
        f"{row.first:>9.2f}{row.seconds:>9.3f}{row.batch_size / row.seconds:>10.2f}{row.memory:>10.2f}"
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    methods = sorted(path.stem for path in (Path(bundle_root("translation")) / "configs" / "methods").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="NAME", help="default: all")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[64, 128, 256], metavar="N", help="pixels; default: 64 128 256"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps to measure (%(default)s)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (%(default)s)")
    parser.add_argument("--batch_size", type=int, help="default: the method's")
    parser.add_argument("--features", type=int, help="default: the method's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="of a CPU; default: torch's choice")
    for name in ("amp", "channels_last", "compile"):
        default = ["on"] if name == "amp" else ["off"]
        parser.add_argument(
            f"--{name}", nargs="+", choices=("on", "off"), default=default, help=f"one or both (default: {default[0]})"
        )
    arguments = parser.parse_args(argv)
    if min(arguments.sizes) < 32 or min(arguments.steps, arguments.warmup) < 1:
        parser.error("--sizes must be at least 32, --steps and --warmup at least 1")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table."""
    arguments = parse_arguments(argv)
    switches = [[value == "on" for value in getattr(arguments, key)] for key in ("amp", "channels_last", "compile")]
    name = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}")
    print("method              size batch  M par  amp      ch.last  compile   first s   s/step  slices/s  peak GiB")
    options = {
        key: getattr(arguments, key) for key in ("steps", "warmup", "device", "batch_size", "features", "threads")
    }
    for method, size, *setting in product(arguments.methods, arguments.sizes, *switches):
        job = Job(method, size, *setting, **options)
        print(line(job, measure_apart(job)), flush=True)


if __name__ == "__main__":
    main()
