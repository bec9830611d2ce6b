"""Finds the folder of a bundle, so that its configs run from any working directory."""

from __future__ import annotations

import os
from pathlib import Path

from crossmoda.errors import InputError


def bundle_root(name: str) -> str:
    """Absolute path of the bundle folder called `name`.

    Looked for, in this order: the working directory itself (a bundle copied elsewhere), `$CROSSMODA_BUNDLES/name`,
    and `bundles/name` of the checkout that this package was installed from (`pip install --editable shared`).

    Args:
        name: the bundle's folder name, e.g. `segmentation-2.5d`.

    Raises:
        InputError: if no such folder has `configs/metadata.json`; `--bundle_root DIR` overrides the search.
    """
    candidates = [Path.cwd()] if Path.cwd().name == name else []
    if "CROSSMODA_BUNDLES" in os.environ:
        candidates.append(Path(os.environ["CROSSMODA_BUNDLES"]) / name)
    candidates.append(Path(__file__).resolve().parents[2] / "bundles" / name)
    for candidate in candidates:
        if (candidate / "configs" / "metadata.json").is_file():
            return str(candidate.resolve())
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise InputError(f"bundle '{name}' not found in {tried}: give --bundle_root, or set CROSSMODA_BUNDLES")
