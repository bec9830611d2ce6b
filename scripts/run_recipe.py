"""Run a paper's whole system, or our own best one: from scans to a report."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.recipes import load_recipe, read_changes, read_presets, recipe_names, resolve, targets_until

SCRIPTS = Path(__file__).resolve().parent
RECIPES, PROFILES = SCRIPTS / "recipes", SCRIPTS / "profiles"
RECIPE_FILE, LOCK_FILE = "recipe.yaml", ".lock"
IDENTITY = ("name", "preset", "phantom", "data_root", "data_list")  # a run keeps these
ENVIRONMENT = {  # as in environment.sh
    "MPLBACKEND": "Agg",
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_THRESHOLD_": "2147483648",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
EPILOG = """\
  run_recipe.py li2021                                     on the head phantom, sizes for two CPU cores
  run_recipe.py li2021 --data datalist.json --jobs 4       on your data, at the paper's sizes
  run_recipe.py li2021 --data datalist.json --truth oracle.json   judged, and beside an oracle
  run_recipe.py shin2021 --data datalist.json --profile slurm --jobs 20
  run_recipe.py best --config seed=1 --config translators::cyclegan::train::max_epochs=30

Stop or kill it whenever you like; started again it goes on. docs/recipes.md says more.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(recipe_names(RECIPES))}, or a YAML file")
    parser.add_argument(
        "--data", metavar="PATH", help="data list, or folder of a crossMoDA release or phantom; without: a phantom"
    )
    parser.add_argument(
        "--truth", metavar="PATH", help="labels of the target scans, for bounds and judgement: a data list, or a folder"
    )
    parser.add_argument("--preset", help="phantom (default without --data) or paper (default with --data)")
    parser.add_argument("--output_dir", metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--jobs", type=int, metavar="J", help="cores, or jobs on a cluster (default: all cores; 20)")
    parser.add_argument("--profile", metavar="NAME", help="slurm, or the folder of a Snakemake profile")
    parser.add_argument("--until", metavar="STAGE", help="stop after data, prepare, translate, segment, ...")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and leave")
    parser.add_argument(
        "--config", action="append", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the recipe"
    )
    return parser.parse_args(argv)


def read_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the Snakefile takes."""
    recipe = load_recipe(arguments.recipe, RECIPES)
    preset = arguments.preset or ("paper" if arguments.data else "phantom")
    output_dir = Path(arguments.output_dir or Path("runs") / recipe["name"]).absolute()
    data, truth = (Path(path).absolute() if path else None for path in (arguments.data, arguments.truth))
    changes = read_changes([entry for group in arguments.config for entry in group])
    config = resolve(recipe, preset, read_presets(RECIPES), output_dir, data, truth, changes)
    return {**config, "preset": preset}


def check_folder(config: dict[str, Any]) -> None:
    """Refuse a folder that holds another run."""
    path = Path(config["output_dir"]) / RECIPE_FILE
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = [key for key in IDENTITY if before.get(key) != config.get(key)]
    if other:
        raise InputError(f"{path.parent} holds a run with another {other[0]}: give another --output_dir")


@contextmanager
def locked(run: Path) -> Iterator[int]:
    """Hold the folder of a run, as long as this process or one that inherits the file descriptor lives.

    Two pipelines in one folder would write the same files. Snakemake's own locks outlive a killed run.
    """
    with (run / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{run} is being worked on by another process: wait until it is done, or end it") from None
        except OSError:  # a file system without locks
            print(f"{run} can't be locked: start no second pipeline in it", file=sys.stderr)
        yield file.fileno()


def run_snakemake(command: list[str], *inherited: int) -> int:
    """Run the pipeline; returns its exit code, when none of its processes works any more.

    Snakemake alone would wait for its jobs at a SIGTERM; here that ends those on this machine. A Ctrl-C reaches all of
    them by itself.

    Args:
        command: of `snakemake_command`.
        inherited: file descriptors that it keeps open.
    """
    signals: list[int] = []
    ended: set[psutil.Process] = set()
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    process = subprocess.Popen(command, env={**ENVIRONMENT, **os.environ}, pass_fds=inherited)
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                try:
                    process.wait(timeout=1)
                except KeyboardInterrupt:
                    if signal.SIGINT in signals:  # the second
                        raise
                    signals.append(signal.SIGINT)
            if signal.SIGTERM in signals:
                ended |= terminate_below(process.pid, ended)
        for late in psutil.wait_procs(ended, timeout=60)[1]:
            with suppress(psutil.NoSuchProcess):
                late.kill()
    finally:
        signal.signal(signal.SIGTERM, before)
    return 130 if signal.SIGINT in signals else process.returncode


def terminate_below(pid: int, done: Collection[psutil.Process]) -> set[psutil.Process]:
    """Send SIGTERM to a process and all below it that are not `done`; returns them."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        found = {top, *top.children(recursive=True)} - set(done)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    return found


def find_profile(name: str) -> Path:
    """The folder of a profile."""
    for folder in (PROFILES / name, Path(name).absolute()):
        if (folder / "config.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.name for path in PROFILES.iterdir()))
    raise InputError(f"there is no profile '{name}': give {known}, or a folder with a config.yaml")


def snakemake_command(arguments: argparse.Namespace, config: dict[str, Any], file: Path, folder: Path) -> list[str]:
    """The command line of the pipeline.

    Args:
        arguments: of this script.
        config: of the Snakefile.
        file: that holds it.
        folder: working directory, where Snakemake remembers what it has done.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SCRIPTS / "Snakefile")]
    command += ["--configfile", str(file), "--directory", str(folder)]
    # --nolock, --rerun-incomplete: a killed run needs no unlocking; what it was writing is made again.
    command += ["--nolock", "--rerun-incomplete", "--quiet", "rules", "host", "reason"]
    if arguments.profile:
        command += ["--profile", str(find_profile(arguments.profile)), "--jobs", str(arguments.jobs or 20)]
    else:
        command += ["--cores", str(arguments.jobs or os.cpu_count()), "--resources", "gpu=1"]
    command += ["--dry-run"] if arguments.dry_run else []
    if arguments.until:
        command += ["--", *targets_until(config, arguments.until)]
    return command


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Run a recipe; returns the exit code."""
    arguments = parse_arguments(argv)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise InputError(f"--jobs {arguments.jobs}: give 1 or more")
    config = read_config(arguments)
    run = Path(config["output_dir"])
    check_folder(config)
    with tempfile.TemporaryDirectory(prefix="recipe_") as temporary:
        # A dry run writes nothing into the folder of a run that is not there yet.
        folder = Path(temporary) if arguments.dry_run and not run.is_dir() else run
        file = (Path(temporary) if arguments.dry_run else run) / RECIPE_FILE
        command = snakemake_command(arguments, config, file, folder)
        try:
            if arguments.dry_run:
                write_text(yaml.safe_dump(config, sort_keys=False), file)
                return run_snakemake(command)
            run.mkdir(parents=True, exist_ok=True)
            with locked(run) as lock:
                write_text(yaml.safe_dump(config, sort_keys=False), file)
                code = run_snakemake(command, lock)
        except OSError as error:
            raise InputError(f"{file} can't be written ({error.strerror}): give another --output_dir") from None
        except KeyboardInterrupt:
            code = 130
    if code == 130:
        print("stopped; run again to go on", file=sys.stderr)
    if code == 0 and (run / "finished").is_file():
        print(
            f"Finished: {run / 'report' / 'index.html'}. On new scans: scripts/predict.py {run} SCAN --output_dir OUT"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
