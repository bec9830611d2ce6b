"""Where a result comes from: git revision, versions, checksums."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("crossmoda", "monai", "torch", "numpy")
_QUIETLY = {"capture_output": True, "text": True, "check": True}


def git_revision(folder: str | Path | None = None) -> str:
    """Commit of the checkout, with `-dirty` if tracked files were changed.

    Args:
        folder: a folder of the checkout; None takes this package's.

    Returns:
        The full hash, or `unknown` outside of a checkout or without git; also where this package was copied into
        another project's checkout, whose commit says nothing about it.
    """
    own = Path(__file__).resolve()
    try:
        if folder is None:
            folder = own.parent
            subprocess.run(["git", "-C", str(folder), "ls-files", "--error-unmatch", own.name], **_QUIETLY)
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, **_QUIETLY).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def checksum(paths: Sequence[str | Path]) -> str:
    """The first twelve digits of a SHA-256 of some files' contents, in their order."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return whole.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on most."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
