"""The numbers of a report: every system with its share of the gap closed, per class, site and grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from crossmoda.errors import InputError
from crossmoda.labels import CLASS_NAMES, FOREGROUND, PART_NAMES
from crossmoda.metrics import BOUNDARY, METRICS, gap_closed, paired_test, summarise

CLASSES = [CLASS_NAMES[label] for label in FOREGROUND]
PARTS = list(PART_NAMES.values())
PART_COLUMNS = {"dice": PARTS, "assd": [*PARTS, BOUNDARY]}
TITLES = {"dice": "Dice", "assd": "ASSD (mm)"}
NONE = "-"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        header: column names.
        rows: as many texts a row as the header has.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """For the terminal: aligned columns, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self.header, ["-" * width for width in widths], *self.rows]

        def line(cells: list[str]) -> str:
            rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

        return "\n".join([self.title, *map(line, lines)])

    def markdown(self) -> str:
        """For a README."""
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        lines = "\n".join("| " + " | ".join(cells) + " |" for cells in (self.header, rule, *self.rows))
        return f"**{self.title}**\n\n{lines}"


def compare(systems: Mapping[str, Rows], source_only: str | None = None, oracle: str | None = None) -> dict[str, Any]:
    """Everything that the tables show, as plain numbers for results.json.

    Args:
        systems: rows of `metrics.csv` per system.
        source_only: name of the lower bound, if there is one.
        oracle: name of the upper bound, if there is one.

    Returns:
        {"source_only", "oracle", "systems": {name: `summarise` and "gap_closed": {metric: {class or "mean": share of
        the means}}}, "paired_tests": [{"first", "second", "column", n, median_difference, p_value}]}; a share is None
        without both bounds.

    Raises:
        InputError: if a bound is not among the systems, or the systems were measured on other cases.
    """
    for name in (source_only, oracle):
        if name is not None and name not in systems:
            raise InputError(f"'{name}' is none of the systems {', '.join(systems)}: correct --source_only or --oracle")
    results = {name: dict(summarise(rows)) for name, rows in systems.items()}
    for result in results.values():
        result["gap_closed"] = {
            metric: {
                part: _share(result, results.get(source_only), results.get(oracle), metric, part)
                for part in result["all"][metric]
            }
            for metric in METRICS
        }
    tests = [
        {"first": first, "second": second, "column": f"{metric}_{name}"}
        | paired_test(systems[first], systems[second], f"{metric}_{name}")
        for first, second in combinations(systems, 2)
        for metric in METRICS
        for name in (*CLASSES, *PART_COLUMNS[metric])
        if all(f"{metric}_{name}" in row for system in (first, second) for row in systems[system])
    ]
    return {"source_only": source_only, "oracle": oracle, "systems": results, "paired_tests": tests}


def main_table(results: Mapping[str, Any]) -> Table:
    """Systems against the bounds: mean +- sd of each metric and class, and the share of the gap closed in Dice."""
    systems = results["systems"]
    count = next(iter(systems.values()))["all"]["n"]
    header = ["system"]
    header += [f"{name} {TITLES[metric]}" for metric in METRICS for name in CLASSES]
    header += [f"gap closed, {name}" for name in CLASSES]
    rows = []
    for name, result in systems.items():
        cells = [_mean_sd(result["all"][metric][part], metric) for metric in METRICS for part in CLASSES]
        shares = [result["gap_closed"]["dice"][part] for part in CLASSES]
        rows.append([name, *cells, *[NONE if share is None else f"{share:.0%}" for share in shares]])
    return Table(f"Mean ± standard deviation over {count} cases; share of the gap in mean Dice", header, rows)


def median_table(results: Mapping[str, Any]) -> Table:
    """Medians of each metric and class, and the cases whose structure was missed altogether."""
    header = ["system"] + [f"{name} {TITLES[metric]}" for metric in METRICS for name in CLASSES]
    header += [f"{name} missed" for name in CLASSES]
    rows = []
    for name, result in results["systems"].items():
        group = result["all"]
        medians = [_number(group[metric][part]["median"], metric) for metric in METRICS for part in CLASSES]
        rows.append([name, *medians, *[str(group["empty_predictions"][part]) for part in CLASSES]])
    return Table("Median, and number of cases in which nothing was predicted", header, rows)


def part_table(results: Mapping[str, Any]) -> Table | None:
    """Mean +- sd of the metrics of the tumour's parts and their boundary; None if no system was measured by them."""
    columns = [(metric, part) for metric in METRICS for part in PART_COLUMNS[metric]]
    groups = {name: result["all"] for name, result in results["systems"].items()}
    if not any(BOUNDARY in group["assd"] for group in groups.values()):
        return None
    header = ["system"] + [f"{part} {TITLES[metric]}" for metric, part in columns]
    rows = [
        [
            name,
            *[_mean_sd(group[metric][part], metric) if part in group[metric] else NONE for metric, part in columns],
        ]
        for name, group in groups.items()
    ]
    return Table("Parts of the tumour and the boundary between them, mean ± standard deviation", header, rows)


def site_table(results: Mapping[str, Any]) -> Table:
    """Mean +- sd of each metric and class per site."""
    header = ["system", "site", "n"] + [f"{name} {TITLES[metric]}" for metric in METRICS for name in CLASSES]
    rows = []
    for name, result in results["systems"].items():
        for site, group in result["sites"].items():
            cells = [_mean_sd(group[metric][part], metric) for metric in METRICS for part in CLASSES]
            rows.append([name, site or NONE, str(group["n"]), *cells])
    return Table("Per site", header, rows)


def grade_table(systems: Mapping[str, Rows]) -> Table | None:
    """Mean +- sd of the Dice of the VS per Koos grade; None if no grade is known."""
    grades = sorted({str(row.get("koos", "")) for rows in systems.values() for row in rows} - {""})
    if not grades:
        return None
    header, table = ["system"], []
    for name, rows in systems.items():
        cells = [name]
        header = ["system"]  # the same for each system, because all have the same cases
        for grade in grades:
            group = summarise([row for row in rows if str(row.get("koos", "")) == grade])
            header.append(f"{grade} (n = {group['all']['n']})")
            cells.append(_mean_sd(group["all"]["dice"][CLASSES[0]], "dice"))
        table.append(cells)
    return Table(f"{CLASSES[0]} Dice per Koos grade", header, table)


def comparison_table(results: Mapping[str, Any]) -> Table | None:
    """Paired tests on Dice between the systems; None for a single system."""
    tests = [test for test in results["paired_tests"] if test["column"].startswith("dice_")]
    if not tests:
        return None
    rows = [
        [
            f"{test['second']} against {test['first']}",
            test["column"].removeprefix("dice_"),
            f"{-test['median_difference']:+.3f}",
            f"{test['p_value']:.2g}",
        ]
        for test in tests
    ]
    title = "Paired Wilcoxon signed-rank tests on Dice, two-sided, not corrected for their number"
    return Table(title, ["systems", "class", "median difference", "p"], rows)


def _share(result: Mapping, lower: Mapping | None, upper: Mapping | None, metric: str, part: str) -> float | None:
    if lower is None or upper is None or not all(part in bound["all"][metric] for bound in (lower, upper)):
        return None
    return gap_closed(*(group["all"][metric][part]["mean"] for group in (result, lower, upper)))


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "dice" else f"{value:.2f}"


def _mean_sd(statistics: Mapping[str, float | None], metric: str) -> str:
    mean, sd = statistics["mean"], statistics["sd"]
    return _number(mean, metric) + (f" ± {_number(sd, metric)}" if sd is not None else "")
