"""Steps of a long run: each is done once, a killed run goes on at the step where it stopped."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crossmoda.data import write_text
from crossmoda.errors import InputError

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def digest(value: Any) -> str:
    """A short key of plain settings; equal settings have equal keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """A key of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def files_digest(paths: Sequence[str | Path]) -> list[list[str]]:
    """Names and keys of files."""
    return [[Path(path).name, file_digest(path)] for path in paths]


def describe(value: Any) -> Any:
    """Plain values that say how objects are set: their classes' names and their attributes."""
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [describe(item) for item in value]
    if hasattr(value, "__dict__"):
        return {type(value).__name__: describe(vars(value))}
    return value


class Steps:
    """Runs steps that leave a mark when they are done, and passes over those whose mark is there.

    A mark holds the key of the step's settings, so that a step whose settings changed is done again. Results that an
    unfinished step of the same settings left are kept (a training continues from them); those of other settings are
    deleted first.

    Args:
        total: number of steps, for the bar.
        progress: whether to show a bar (only on a terminal).
    """

    def __init__(self, total: int | None = None, progress: bool = True) -> None:
        # disable=None: no bar in a log file or a pipe
        self.bar = tqdm(total=total, disable=None if progress else True, unit="step", desc="Self-training")

    def run(self, name: str, folder: Path, settings: Any, action: Callable[[], None]) -> str:
        """Do a step unless it is done.

        Args:
            name: for messages, e.g. `round 1, training of nnunet_3d_fold0`.
            folder: of the step's results, which nothing else writes to; the mark lies beside it.
            settings: plain values that the results depend on, the keys of earlier steps among them.
            action: does it; writes into the folder.

        Returns:
            The key of the settings.
        """
        key = digest(settings)
        mark = folder.with_name(f".{folder.name}.step.json")
        found = _read_mark(mark)
        self.bar.set_postfix_str(name)
        if found.get("key") == key and found.get("done") and folder.is_dir():
            logger.info(f"{name}: done before")
        else:
            if found.get("key") not in (None, key):
                logger.info(f"{name}: settings have changed, starting anew")
            if found.get("key") != key:
                mark.unlink(missing_ok=True)  # first, so that no mark vouches for a folder that is half deleted
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(json.dumps({"key": key, "done": False}), mark)
            logger.info(f"{name} ...")
            action()
            write_text(json.dumps({"key": key, "done": True}), mark)
        self.bar.update()
        return key

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def run_bundle(
    name: str,
    config_files: Sequence[str],
    values: Mapping[str, Any],
    log: Path,
    environment: Mapping[str, str] | None = None,
    processes: int = 1,
) -> None:
    """`python -m monai.bundle run` in a process of its own, or in several of torchrun's, which die with this one.

    Its lines go to the log file; those of the epochs are shown too.

    Args:
        name: for the message if it fails.
        config_files: merged in order.
        values: overrides.
        log: file that the output is added to.
        environment: variables on top of this process's.
        processes: how many; for several the config files must know about them (`multi_gpu_train.yaml`).

    Raises:
        InputError: if it fails; one line with its last message and the log file.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", repr(list(config_files))]
    for key, value in values.items():
        words += [f"--{key}", repr(value)]  # a literal, which fire does not take for anything else
    log.parent.mkdir(parents=True, exist_ok=True)
    last = ""
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(environment or {})},
            # torchrun needs a signal that it can hand on to its processes.
            preexec_fn=partial(_die_with_parent, signal.SIGTERM if launcher else signal.SIGKILL),
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = _reason(line) or last
                if " - Epoch " in line:
                    logger.info(f"{name}: {line.split(' - ')[-1].strip()}")
        except BaseException:  # a SIGTERM or Ctrl-C of the rounds
            process.terminate()
            raise
    if process.returncode:
        reason = last.removeprefix("error: ")
        raise InputError(f"{name} failed with exit code {process.returncode} ({reason}): see {log}")


def _reason(line: str) -> str | None:
    """The message of a line that says why a process failed; MONAI wraps every error in one that says only where."""
    found = re.match(r"error: (.*)|(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)\b.*)", line.strip())
    if found is None or "Failed to evaluate" in line or "Failed to instantiate" in line:
        return None
    return found[1] or found[2]


def _die_with_parent(by: signal.Signals) -> None:
    """Otherwise a training would go on after a `kill -9` of the rounds, and the next start would run beside it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def _read_mark(mark: Path) -> dict[str, Any]:
    return json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
