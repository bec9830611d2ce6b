"""The numbers of the translators: what was measured of their volumes, and of their training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmoda.engines.history import read_history
from crossmoda.report.tables import NONE, Table

SCORE = "val_selection_score"
TITLE = (
    "Translations: the score that chose the checkpoint (its parts depend on the method); share of the distance to real"
    " hrT2 that is closed (fixed features, power spectrum); contrast of VS and cochlea to their surroundings (% of the"
    " range; on real hrT2 of the same subjects in brackets); edges of the ceT1 kept; flicker (% of the range); MAE (%"
    " of the range) and SSIM against the true hrT2 of the same subjects"
)
HEADER = [
    "translator",
    "score",
    "features closed",
    "spectrum closed",
    "VS contrast",
    "cochlea contrast",
    "edges kept",
    "flicker",
    "MAE",
    "SSIM",
]


def translation_table(folders: Mapping[str, Path], histories: Mapping[str, Path | None]) -> Table | None:
    """One row a translator whose volumes have been judged (`evaluate.yaml` of the translation bundle).

    Args:
        folders: folder of each translator's volumes; those without `summary.json` are left out.
        histories: `history.csv` of each translator's training, if known.

    Returns:
        The table, or None if nothing was judged.
    """
    rows = []
    for name, folder in folders.items():
        if (folder / "summary.json").is_file():
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            rows.append([name, _score(histories.get(name)), *_measures(summary)])
    return Table(TITLE, HEADER, rows) if rows else None


def _score(history: Path | None) -> str:
    scores = [row[SCORE] for row in read_history(history) if SCORE in row] if history else []
    return f"{max(scores):.3f}" if scores else NONE


def _measures(summary: Mapping[str, Any]) -> list[str]:
    cases, truth, distances = summary["cases"], summary.get("truth") or {}, summary["distances"]["all"]

    def mean(column: str, digits: int, of: Mapping[str, Any] = cases) -> str:
        value = of.get(column, {}).get("mean")
        return NONE if value is None else f"{value:.{digits}f}"

    def contrast(column: str) -> str:
        return mean(column, 1) + (f" ({mean(column, 1, truth)})" if column in truth else "")

    closed = [distances[name]["closed"] for name in ("fid", "spectrum_db")]
    return [
        *[NONE if share is None else f"{share:.0%}" for share in closed],
        contrast("contrast_VS"),
        contrast("contrast_cochlea"),
        mean("edges_kept", 2),
        mean("flicker_percent", 2),
        mean("mae_percent", 1),
        mean("ssim_2d", 3),
    ]
