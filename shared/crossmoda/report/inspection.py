"""The quality page of a data list: every scan measured, faults and outliers named, before any training."""

from __future__ import annotations

import base64
import csv
import io
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from tqdm import tqdm

from crossmoda.data import SECTIONS, item_faults, label_map, load_datalist, write_text
from crossmoda.errors import InputError
from crossmoda.provenance import git_revision, versions
from crossmoda.report.inspection_flags import RULES, Flag, find_flags
from crossmoda.report.inspection_measures import COLUMNS, QUANTILES, measure
from crossmoda.report.inspection_pictures import site_figure, strip_figure, thumbnail

Item = dict[str, Any]
Record = dict[str, Any]


@dataclass
class Inspection:
    """What was found.

    Attributes:
        records: a row a sound scan, see `inspection_measures.COLUMNS`.
        flags: for each record its reasons to look at it, most serious first.
        thumbnails: for each record a JPEG.
        faults: {section, case, fault} for each fault of a file.
        notes: what holds for most scans of a site.
    """

    records: list[Record] = field(default_factory=list)
    flags: list[list[Flag]] = field(default_factory=list)
    thumbnails: list[bytes] = field(default_factory=list)
    faults: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outliers(self) -> int:
        """Number of scans with a flag."""
        return sum(map(bool, self.flags))

    @property
    def faulty(self) -> int:
        """Number of cases with a fault."""
        return len({(fault["section"], fault["case"]) for fault in self.faults})

    def summary(self) -> str:
        """Numbers, faults, notes and rules met, a line each, for the terminal."""
        lines = [f"scans inspected: {len(self.records)}, outliers: {self.outliers}, faulty, left out: {self.faulty}"]
        lines += [f"fault: {fault['fault']}" for fault in self.faults]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"{count} x {RULES[rule]}" for rule, count in self.rules_met()]
        return "\n".join(lines)

    def rules_met(self) -> list[tuple[str, int]]:
        """Rules that scans break and by how many, most serious first."""
        counts = Counter(rule for own in self.flags for rule in {flag.rule for flag in own})
        return [(rule, counts[rule]) for rule in RULES if counts[rule]]


def inspect(data_list: str | Path, jobs: int = 1, progress: bool = True) -> Inspection:
    """Measure every scan of a data list and look for faults and outliers.

    Args:
        data_list: the file; all its sections are read.
        jobs: processes; each holds one scan at a time. They do not change the result.
        progress: whether to show a bar with the time left (only on a terminal).

    Raises:
        InputError: if the list can't be read or is empty. Faults of the scans are collected instead.
    """
    mapping = label_map(data_list)
    tasks = [(section, item, mapping) for section, item in _items(data_list)]
    done = _map(tasks, jobs, progress)
    inspection, seen = Inspection(), set()
    for (section, item, _), (record, picture, faults) in zip(tasks, done, strict=True):
        if (section, item["case"]) in seen:
            faults = [*faults, f"{item['image']} is another scan of case {item['case']} in {section}: remove one"]
        seen.add((section, item["case"]))
        if faults:
            inspection.faults += [{"section": section, "case": item["case"], "fault": fault} for fault in faults]
        else:
            inspection.records.append({"section": section, **record})
            inspection.thumbnails.append(picture)
    # The 2023 release, told by its three classes or, once they were merged, by its names.
    is_2023 = 3 in mapping or any(record["case"].startswith("crossmoda2023_") for record in inspection.records)
    inspection.flags, inspection.notes = find_flags(inspection.records, is_2023)
    for record, flags in zip(inspection.records, inspection.flags, strict=True):
        record["outlier"] = bool(flags)
        record["reasons"] = "; ".join(flag.text for flag in flags)
    return inspection


def write_inspection(inspection: Inspection, data_list: str | Path, page: str | Path) -> None:
    """Write the page and, beside it under the same name, a `.csv` with a row a scan and a `.json` with everything.

    Args:
        inspection: what was found.
        data_list: the list it was found in, for the title and for shorter paths.
        page: the HTML file; folders are made.
    """
    page = Path(page)
    facts = {
        "data list": str(Path(data_list).absolute()),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "git revision": git_revision(),
        **versions(),
    }
    cases = [
        {**record, "flags": [asdict(flag) for flag in flags]}
        for record, flags in zip(inspection.records, inspection.flags, strict=True)
    ]
    content = {"facts": facts, "faults": inspection.faults, "notes": inspection.notes, "cases": cases}
    html = _html(inspection, Path(data_list), facts, page.with_suffix(".csv").name)
    write_text(json.dumps(content, indent=1) + "\n", page.with_suffix(".json"))
    write_text(_csv(inspection.records), page.with_suffix(".csv"))
    write_text(html, page)


def _items(data_list: str | Path) -> list[tuple[str, Item]]:
    """Section and item, absolute paths; the known sections first, then whatever else the list has."""
    content = json.loads(Path(data_list).read_text(encoding="utf-8"))  # label_map has told that it can be read
    present = [name for name, items in content.items() if isinstance(items, list) and items]
    order = [name for name in SECTIONS if name in present] + [name for name in present if name not in SECTIONS]
    if not order:
        raise InputError(f"{Path(data_list).absolute()} has no items: make it again with scripts/make_datalist.py")
    keys = ("koos", "parcellation")
    return [
        (section, item)
        for section in order
        for item in load_datalist(data_list, section, check="none", progress=False, extra_keys=keys)
    ]


def _inspect_item(task: tuple[str, Item, Mapping[int, int]]) -> tuple[Record, bytes, list[str]]:
    """Faults of one item, or its measures and thumbnail; runs in a process of its own."""
    section, item, mapping = task
    faults = item_faults(item, section == "source_training", "full", tuple(mapping))
    if faults:
        return {}, b"", faults
    try:
        record, scan, label = measure(item, mapping)
    except InputError as error:  # the file was changed after the check
        return {}, b"", [str(error)]
    return record, thumbnail(scan, label), []


def _map(tasks: Sequence[tuple], jobs: int, progress: bool) -> list[tuple[Record, bytes, list[str]]]:
    """Run the tasks in processes, with a bar; results in the order of the tasks."""
    # disable=None: no bar in a log file or a pipe
    bar = {"desc": "Inspecting", "unit": "case", "total": len(tasks), "disable": None if progress else True}
    if jobs == 1:
        return list(tqdm(map(_inspect_item, tasks), **bar))
    results: list[Any] = [None] * len(tasks)
    # fork: a new interpreter would take seconds to import torch
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
        futures = {pool.submit(_inspect_item, task): index for index, task in enumerate(tasks)}
        try:
            for future in tqdm(as_completed(futures), **bar):
                results[futures[future]] = future.result()
        except BrokenProcessPool:
            raise InputError("a process was killed, perhaps for memory: give fewer --jobs") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _csv(records: Sequence[Record]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in record.items()})
    return file.getvalue()


def _html(inspection: Inspection, data_list: Path, facts: Mapping[str, str], csv_name: str) -> str:
    environment = Environment(
        loader=PackageLoader("crossmoda.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    folder = data_list.absolute().parent
    rows = [
        {**record, "number": number, "flags": flags, "file": os.path.relpath(record["image"], folder)}
        for number, (record, flags) in enumerate(zip(inspection.records, inspection.flags, strict=True))
    ]
    names = dict.fromkeys(row["section"] for row in rows)
    sections = {section: [row for row in rows if row["section"] == section] for section in names}
    order = list(RULES)
    outliers = sorted(
        (row for row in rows if row["flags"]), key=lambda row: (order.index(row["flags"][0].rule), -len(row["flags"]))
    )
    figures = {"sites": site_figure(inspection.records), "strips": strip_figure(inspection.records)} if rows else {}
    return environment.get_template("inspection.html.jinja").render(
        inspection=inspection,
        name=data_list.name,
        sections=sections,
        outliers=outliers,
        first=_first_of_rules(inspection, rows),
        rules=RULES,
        quantiles=QUANTILES,
        figures={name: _base64(_png(figure)) for name, figure in figures.items()},
        thumbnails=[_base64(picture) for picture in inspection.thumbnails],
        facts=facts,
        csv_name=csv_name,
    )


def _first_of_rules(inspection: Inspection, rows: Sequence[Record], shown: int = 6) -> list[tuple[str, int, list]]:
    """Rules met, most serious first, with the number of scans and the first of them."""
    return [
        (rule, count, [row for row in rows if any(flag.rule == rule for flag in row["flags"])][:shown])
        for rule, count in inspection.rules_met()
    ]


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
