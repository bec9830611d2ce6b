"""Where a result comes from: git revision and versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("crossmoda", "monai", "torch", "numpy")


def git_revision(folder: str | Path | None = None) -> str:
    """Commit of the checkout, with `-dirty` if tracked files were changed.

    Args:
        folder: a folder of the checkout; None takes this package's.

    Returns:
        The full hash, or `unknown` outside of a checkout or without git.
    """
    folder = Path(folder) if folder is not None else Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on most."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
