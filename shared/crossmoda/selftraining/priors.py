"""What source labels tell of anatomy: volumes, components and distances, to be expected in the target domain too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossmoda.data import label_map as read_label_map
from crossmoda.data import load_datalist, read_label, write_text
from crossmoda.errors import InputError
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.measures import Numbers, measure_anatomy


@dataclass(frozen=True)
class LabelPriors:
    """The numbers of `measure_anatomy` over a set of labels.

    Args:
        cases: number of labels.
        values: name to its values in ascending order, without the cases in which it could not be measured.
    """

    cases: int
    values: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, measured: Iterable[Numbers]) -> LabelPriors:
        """Gather the numbers of each case's `measure_anatomy`."""
        rows = list(measured)
        names = sorted({name for row in rows for name in row})
        values = {name: sorted(value for row in rows if (value := row.get(name)) is not None) for name in names}
        return cls(len(rows), values)

    def bounds(self, name: str, quantile: float) -> tuple[float, float] | None:
        """Quantiles `quantile` and `1 - quantile` (linear between values); None if `name` was never measured."""
        if not self.values.get(name):
            return None
        low, high = np.quantile(self.values[name], [quantile, 1 - quantile])
        return float(low), float(high)

    def share_measured(self, name: str) -> float:
        """Share of the labels in which `name` could be measured, e.g. a distance between both cochleae."""
        return len(self.values.get(name, ())) / self.cases if self.cases else 0.0

    def save(self, path: str | Path) -> None:
        """Write the priors as JSON, whole or not at all."""
        content = {"cases": self.cases, "values": {name: list(values) for name, values in self.values.items()}}
        write_text(json.dumps(content, indent=1) + "\n", path)

    @classmethod
    def load(cls, path: str | Path) -> LabelPriors:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing or holds something else.
        """
        path = Path(path).absolute()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            values = {str(name): [float(value) for value in found] for name, found in content["values"].items()}
            return cls(int(content["cases"]), values)
        except OSError as error:
            raise InputError(f"{path} can't be read ({error.strerror}): learn the priors anew") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path} holds no label priors: delete it and learn them anew") from None


def learn_priors(
    data_list: str | Path,
    section: str = "source_training",
    classes: Classes | None = None,
    label_map: Mapping[int, int] | None = None,
) -> LabelPriors:
    """Measure the labels of a data list's section.

    Args:
        data_list: the data list; only this section is read.
        section: one with labels.
        classes: tumour and cochlea after `label_map`; None takes VS and cochlea.
        label_map: from the files' classes to those of `classes`; None takes the data list's own.

    Returns:
        The priors.

    Raises:
        InputError: if the list, a label or its section has a fault, or a label is missing.
    """
    mapping = dict(label_map) if label_map is not None else read_label_map(data_list)
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    measured = []
    for item in load_datalist(data_list, section, require_label=True, check="header", progress=False):
        labels, affine = read_label(item["label"], tuple(mapping))
        measured.append(measure_anatomy(table[labels], affine, classes or Classes()))
    return LabelPriors.of(measured)
