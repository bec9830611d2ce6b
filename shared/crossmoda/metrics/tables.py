"""Tables of one row a case: written, read, and summarised."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.writing import write_text

Row = dict[str, Any]


def write_rows(rows: Sequence[Row], path: str | Path) -> None:
    """Write rows as CSV, whole or not at all; the columns are those of the first row."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    write_text(table.getvalue(), path)


def statistics(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation (of a sample; None for a single value) and median of the values that are not NaN.

    All are None if there are none.
    """
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return {"mean": None, "sd": None, "median": None}
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)), "sd": sd, "median": float(np.median(known))}
