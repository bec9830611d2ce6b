"""Preparation of a whole data list: learn, prepare in parallel, report."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crossmoda.data import label_map, read_sections, replacing, write_datalist, write_text
from crossmoda.errors import InputError
from crossmoda.preparation.case import Item, Outcome, Task, prepare_case
from crossmoda.preparation.learning import learn
from crossmoda.preparation.recipe import FILES, Recipe
from crossmoda.preparation.workers import run_all

REPORT_FILE = "report.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        outcomes: of all cases; those with unusable names first, the others in the order of the data list.
        notes: lines on what was learned.
        data_list: the new data list; None if no case could be prepared.
        report: the report file.
    """

    outcomes: list[Outcome]
    notes: list[str]
    data_list: Path | None
    report: Path

    @property
    def counts(self) -> Counter[str]:
        """How many cases are `done`, `unchanged` and `faulty`."""
        return Counter(outcome.status for outcome in self.outcomes)


def prepare(
    data_list: str | Path,
    recipe: Recipe,
    output_dir: str | Path,
    jobs: int = 1,
    progress: bool = True,
    like: str | Path | None = None,
) -> Summary:
    """Prepare all cases of a data list; run again, it does what is missing or has changed.

    Args:
        data_list: the list of raw scans.
        recipe: the preprocessing.
        output_dir: folder of the prepared volumes, `<section>/<case>_...`, with `datalist.json`, `preparation.json`
            and `report.json`.
        jobs: processes.
        progress: whether to show bars.
        like: folder of an earlier preparation; its recipe with all it learned is taken instead of `recipe`.

    Returns:
        What was done. Faulty cases are in it and in the report, and don't stop the others.

    Raises:
        InputError: if nothing can be begun: the list, the recipe or the folder is unusable.
    """
    folder = Path(output_dir).absolute()
    sections = read_sections(data_list)
    bad_names = _name_faults(sections, Path(data_list).absolute())
    labels = label_map(data_list)
    _make_folder(folder)

    def make_task(item: Item, section: str, recipe: Recipe) -> Task:
        return Task(item, section, recipe, folder, tuple(labels))

    run = partial(run_all, jobs=jobs, progress=progress)
    recipe = recipe if like is None else _adopt(Recipe.read(like), folder)
    well_named = {
        section: [item for item in items if (section, str(item["case"])) not in bad_names]
        for section, items in sections.items()
    }
    recipe, notes = learn(recipe, well_named, make_task, folder, run)
    with _naming(folder):
        recipe.write(folder)
    tasks = [make_task(item, section, recipe) for section, items in well_named.items() for item in items]
    outcomes = [Outcome(case, section, "faulty", faults=[fault]) for (section, case), fault in bad_names.items()]
    outcomes += run(prepare_case, tasks, f"preparing ({recipe.name})", on_lost=_lost)
    with _naming(folder):
        return _finish(folder, outcomes, notes, labels)


def _finish(folder: Path, outcomes: Sequence[Outcome], notes: list[str], labels: dict[int, int]) -> Summary:
    good: dict[str, list[Item]] = {}
    for outcome in outcomes:
        if outcome.item is not None:
            good.setdefault(outcome.section, []).append(outcome.item)
    path = folder / "datalist.json"
    if good:
        write_datalist(good, path, labels)
    else:
        path.unlink(missing_ok=True)  # an earlier run's
    summary = Summary(list(outcomes), notes, path if good else None, folder / REPORT_FILE)
    content: dict[str, Any] = {"counts": summary.counts, "notes": notes}
    content["cases"] = [_without_item(outcome) for outcome in outcomes]
    write_text(json.dumps(content, indent=1) + "\n", summary.report)
    return summary


def _without_item(outcome: Outcome) -> dict[str, Any]:
    content = asdict(outcome)
    del content["item"]
    content["seconds"] = round(content["seconds"], 2)
    return content


def _lost(task: Task) -> Outcome:
    fault = f"{task.item['image']}: the process was killed, as the system does when memory runs out: use fewer --jobs"
    return Outcome(task.item["case"], task.section, "faulty", faults=[fault])


def _adopt(recipe: Recipe, folder: Path) -> Recipe:
    """Copy the reference files of another preparation, so that the new folder is complete in itself."""
    copies = {}
    for key in FILES:
        source = recipe.config.get(key)
        if source and Path(source).parent != folder / "references":
            target = folder / "references" / Path(source).name
            _copy(Path(source), target)
            copies[key] = str(target)
    return recipe.changed(copies)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Tell in one line that a folder is full or forbidden."""
    try:
        yield
    except OSError as error:
        mend = "make room or change its permissions, and run again"
        raise InputError(f"{folder} can't be written ({error.strerror}): {mend}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is a file, not a folder: give another --output_dir") from None
    except OSError as error:
        raise InputError(f"{folder} can't be made ({error.strerror}): give another --output_dir") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} may not be written: change its permissions, or give another --output_dir")
    for leftover in folder.rglob(".*.tmp.*"):  # of a run that was killed
        leftover.unlink(missing_ok=True)


def _name_faults(sections: dict[str, list[Item]], data_list: str | Path) -> dict[tuple[str, str], str]:
    """Faults of case names by section and case: files are named by them."""
    faults = {}
    for section, items in sections.items():
        for case, count in Counter(str(item["case"]) for item in items).items():
            if not SAFE_NAME.fullmatch(case):
                faults[section, case] = f"{data_list}: case name {case!r} can't name a file: use letters, digits, _ - ."
            elif count > 1:
                fault = f"{data_list} has {count} items of case {case} in {section}: give each its own name"
                faults[section, case] = fault
    return faults
