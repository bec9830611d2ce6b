"""Several translators' volumes of the same cases as one training set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crossmoda.data.datalist import Item, label_map, read_sections, write_datalist
from crossmoda.errors import InputError, exit_on_input_error


def pool_views(views: Mapping[str, str | Path], path: str | Path, section: str = "source_training") -> int:
    """Write a data list that holds every case once for each translator (Kang 2022, 3.2: "multi-view").

    Each item has its translator's name as `view` and the label of its case. `split_cases` keeps the views of a case
    together, so that no case is learnt from in one view and judged in another.

    Args:
        views: name of each translator -> the data list of its volumes (inference writes it).
        path: the data list to write.
        section: the section to pool, in all lists.

    Returns:
        The number of items written.

    Raises:
        InputError: if there are fewer than two views, a list can't be read, the lists do not hold the same cases with
            the same labels, or two of them hold the same image.
    """
    if not isinstance(views, Mapping) or len(views) < 2:
        raise InputError("give at least two views, e.g. --views \"{'cyclegan': 'a/datalist.json', 'cut': 'b.json'}\"")
    items = {view: _by_case(view, data_list, section) for view, data_list in views.items()}
    maps = {view: label_map(data_list) for view, data_list in views.items()}
    first, *others = items
    for view in others:
        _check_pair(views, items, first, view)
        if maps[view] != maps[first]:
            raise InputError(f"{views[view]} has another label_map than {views[first]}: translate one data list")
    pooled = [{**item, "view": view} for view, cases in items.items() for item in cases.values()]
    images: dict[str, str] = {}
    for item in pooled:
        view = images.setdefault(item["image"], item["view"])
        if view != item["view"]:
            raise InputError(f"{item['image']} is in both '{view}' and '{item['view']}': give one --output_dir a view")
    write_datalist({section: pooled}, path, maps[first])
    return len(pooled)


def _by_case(view: str, data_list: str | Path, section: str) -> dict[str, Item]:
    items = read_sections(data_list, [section])[section]
    cases = {item["case"]: item for item in items}
    if len(cases) < len(items):
        raise InputError(f"{data_list} ('{view}') holds a case twice: give each translator's own list")
    return cases


def _check_pair(views: Mapping[str, str | Path], items: dict[str, dict[str, Item]], first: str, other: str) -> None:
    for full, short in ((first, other), (other, first)):
        missing = sorted(items[full].keys() - items[short].keys())
        if missing:
            raise InputError(f"{views[short]} ('{short}') has no {missing[0]}: translate the same cases in each view")
    for case, item in items[first].items():
        if item.get("label") != items[other][case].get("label"):
            raise InputError(f"{views[other]} ('{other}') has another label for {case}: translate one data list")


pool_views_or_exit = exit_on_input_error(pool_views)
