"""Which scans to look at before training, and why, in words: fixed rules, and robust z-scores within a site."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = dict[str, Any]

# methods, A.2: 2021's to 2023's scans, all sites, in plane and between slices
IN_PLANE_MM = (0.35, 0.86)
SLICE_MM = (0.78, 3.5)
# methods, A.3: sizes in the 2021 release, and in 2023, whose tumours reach 27 mL and whose cochleae 0.38 mL
VS_ML, VS_ML_2023 = (0.04, 9.8), (0.04, 27.0)
COCHLEA_ML = (0.07, 0.38)
FEWEST_SLICES = 20  # open: the smallest release scan has 11; 40-slice crops are then mostly padding
ANISOTROPY = 5.0  # open: slice distance over pixel size; 3.7 for a typical ceT1
PIXEL_RATIO = 1.05
OBLIQUE_DEGREES = 20.0
SATURATED_SHARE = 1e-3
EMPTY_SLICES_SHARE = 0.1
MAJORITY = 0.8

# Iglewicz and Hoaglin's 3.5 would name every fifth faultless scan of a group of ten: each has some 15 measures.
Z_LIMIT = 5.0
FEWEST_IN_GROUP = 10

# Rules on how a site scans: if more than half of at least four scans break one, that is said once of the site.
PROTOCOL_RULES = ("in_plane", "slice_distance", "few_slices", "anisotropic", "pixels", "oblique", "saturated", "empty")
FEWEST_FOR_NOTE = 4

# In the order of what to look at first.
RULES = {
    "leak": "the same voxels in two sections, or a case name of a training section in target_validation too",
    "duplicate": "the same voxels in two scans of a section, flipped or in another number type too",
    "no_vs": "a label without VS",
    "no_cochlea": "a label without cochlea on a side (sides told by a span of 40 mm across the head)",
    "vs_volume": f"VS outside {VS_ML[0]}-{VS_ML[1]} mL ({VS_ML_2023[0]}-{VS_ML_2023[1]:g} mL in the 2023 release)",
    "cochlea_volume": f"both cochleae together outside {COCHLEA_ML[0]}-{COCHLEA_ML[1]} mL",
    "parts": "VS in more than one part, or both cochleae in more than two",
    "border": "a label that touches the border of the volume",
    "orientation": f"other axis order than most of the section, or flipped against {MAJORITY:.0%} of the site's scans",
    "oblique": f"axes more than {OBLIQUE_DEGREES:g} degrees off the patient's",
    "in_plane": f"pixels outside {IN_PLANE_MM[0]}-{IN_PLANE_MM[1]} mm, the releases' range",
    "slice_distance": f"slices outside {SLICE_MM[0]}-{SLICE_MM[1]} mm, the releases' range",
    "few_slices": f"fewer than {FEWEST_SLICES} axial slices",
    "anisotropic": f"slice distance more than {ANISOTROPY:g} times the pixel size",
    "pixels": f"pixels whose edges differ by more than {PIXEL_RATIO - 1:.0%}",
    "saturated": f"more than {SATURATED_SHARE:.1%} of the voxels at the maximum",
    "empty": f"more than {EMPTY_SLICES_SHARE:.0%} of the axial slices of one value",
    "unusual": f"a measure more than {Z_LIMIT:g} robust deviations from its site's median in the section",
}


@dataclass(frozen=True)
class Flag:
    """A reason to look at a scan.

    Attributes:
        rule: one of `RULES`.
        text: the reason with its numbers.
    """

    rule: str
    text: str


@dataclass(frozen=True)
class Measure:
    """A column whose outliers are looked for.

    Attributes:
        key: column.
        name: in words.
        unit: with a space before it, or empty.
        floor: least deviation that counts as one, so that a group of equal values does not make a 1 % change an
            outlier: a share of the median for measures that are positive throughout (compared as logarithms), else
            in the measure's own unit; for intensities a share of the group's contrast (q99 - q1).
    """

    key: str
    name: str
    unit: str
    floor: float


_AXIS_NAMES = {"x": "right-left", "y": "front-back", "z": "feet-head"}
MEASURES = (
    *(Measure(f"spacing_{axis}", f"{name} spacing", " mm", 0.03) for axis, name in _AXIS_NAMES.items()),
    *(Measure(f"size_{axis}", f"{name} voxels", "", 0.05) for axis, name in _AXIS_NAMES.items()),
    Measure("q1", "1 % intensity", "", 0.1),
    Measure("q25", "25 % intensity", "", 0.1),
    Measure("q50", "median intensity", "", 0.1),
    Measure("q75", "75 % intensity", "", 0.1),
    Measure("q99", "99 % intensity", "", 0.1),
    Measure("q100", "greatest intensity", "", 0.1),
    Measure("zero_share", "share of zero voxels", "", 0.03),
    Measure("snr", "signal-to-noise ratio", "", 0.1),
    Measure("vs_ml", "VS volume", " mL", 0.1),
    Measure("cochlea_ml", "cochlea volume", " mL", 0.05),
    Measure("vs_from_centre_mm", "distance of the VS from the volume's centre", " mm", 3.0),
    Measure("cochlea_from_centre_mm", "distance of the cochleae from the volume's centre", " mm", 3.0),
)
_LINEAR = ("zero_share", "vs_from_centre_mm", "cochlea_from_centre_mm")


def find_flags(records: Sequence[Record], is_2023: bool = False) -> tuple[list[list[Flag]], list[str]]:
    """Reasons to look at each scan.

    Args:
        records: rows of `inspection_measures.measure` with a `section`.
        is_2023: whether the scans are of the 2023 release, whose tumours are larger.

    Returns:
        For each record its flags, most serious first; and notes on whole sites, see `PROTOCOL_RULES`.
    """
    flags: list[list[Flag]] = [[*_scan_flags(record), *_label_flags(record, is_2023)] for record in records]
    for finder in (_double_flags, _orientation_flags, _unusual_flags):
        for index, flag in finder(records):
            flags[index].append(flag)
    notes = _take_out_notes(records, flags)
    order = list(RULES)
    return [sorted(own, key=lambda flag: order.index(flag.rule)) for own in flags], notes


def _scan_flags(record: Record) -> Iterable[Flag]:
    x, y, z = (record[f"spacing_{axis}"] for axis in "xyz")
    if record["oblique_degrees"] > OBLIQUE_DEGREES:
        yield Flag("oblique", f"axes are {record['oblique_degrees']:.0f} degrees off the patient's")
    if not (_within(x, IN_PLANE_MM) and _within(y, IN_PLANE_MM)):
        yield Flag("in_plane", f"pixels of {x:.2f} x {y:.2f} mm are outside the releases' {_span(IN_PLANE_MM, 'mm')}")
    if not _within(z, SLICE_MM):
        yield Flag("slice_distance", f"slices {z:.2f} mm apart are outside the releases' {_span(SLICE_MM, 'mm')}")
    if record["size_z"] < FEWEST_SLICES:
        yield Flag("few_slices", f"only {record['size_z']} axial slices")
    if z > ANISOTROPY * min(x, y):
        yield Flag("anisotropic", f"slice distance is {z / min(x, y):.1f} times the pixel size")
    if max(x, y) > PIXEL_RATIO * min(x, y):
        yield Flag("pixels", f"pixels of {x:.3f} x {y:.3f} mm are not square")
    if record["saturated_share"] > SATURATED_SHARE:
        yield Flag("saturated", f"{record['saturated_share']:.1%} of the voxels are at the maximum, {record['q100']:g}")
    if record["empty_slices"] > EMPTY_SLICES_SHARE * record["size_z"]:
        yield Flag("empty", f"{record['empty_slices']} of {record['size_z']} axial slices hold one value only")


def _label_flags(record: Record, is_2023: bool) -> Iterable[Flag]:
    if not record["label"]:
        return
    vs_range = VS_ML_2023 if is_2023 else VS_ML
    if not record["vs_ml"]:
        yield Flag("no_vs", "the label has no VS")
    elif not _within(record["vs_ml"], vs_range):
        yield Flag("vs_volume", f"VS of {record['vs_ml']:.3g} mL is outside {_span(vs_range, 'mL')}")
    missing = [side for side in ("right", "left") if not record[f"cochlea_{side}_ml"]]
    if missing:
        yield Flag("no_cochlea", f"the label has no cochlea on {'either side' if missing[1:] else 'the ' + missing[0]}")
    elif not _within(record["cochlea_ml"], COCHLEA_ML):
        yield Flag("cochlea_volume", f"cochleae of {record['cochlea_ml']:.3g} mL are outside {_span(COCHLEA_ML, 'mL')}")
    if record["vs_parts"] > 1:
        yield Flag("parts", f"the VS is in {record['vs_parts']} parts")
    if record["cochlea_parts"] > 2:
        yield Flag("parts", f"the cochleae are in {record['cochlea_parts']} parts")
    for key, name in (("vs", "VS"), ("cochlea", "cochlea")):
        if record[f"{key}_at_border"]:
            yield Flag("border", f"the {name} touches the border of the volume")


def _double_flags(records: Sequence[Record]) -> Iterable[tuple[int, Flag]]:
    """Equal voxels anywhere, and validation cases whose name is among the training cases."""
    by_hash, by_case = defaultdict(list), defaultdict(list)
    for index, record in enumerate(records):
        by_case[record["case"]].append(index)
        by_hash[record["voxels_hash"]].append(index)
    for group in by_hash.values():
        for index in group:
            for other in group:
                if other != index:
                    rule = "duplicate" if records[index]["section"] == records[other]["section"] else "leak"
                    place = f"{records[other]['case']} in {records[other]['section']}"
                    yield index, Flag(rule, f"has the same voxels as {place}")
    for group in by_case.values():
        for index in group:
            for other in group:
                same_scan = records[index]["voxels_hash"] == records[other]["voxels_hash"]
                if _crosses_validation(records[index], records[other]) and not same_scan:
                    yield index, Flag("leak", f"a case of this name is in {records[other]['section']} too")


def _crosses_validation(first: Record, second: Record) -> bool:
    return ("validation" in first["section"]) != ("validation" in second["section"])


def _orientation_flags(records: Sequence[Record]) -> Iterable[tuple[int, Flag]]:
    """Scans stored in another axis order than the section's, or flipped against nearly all of their site's."""
    for group in _groups(records, lambda record: record["section"]):
        orders = Counter(_axis_order(records[index]) for index in group)
        order, count = orders.most_common(1)[0]
        for index in group:
            own = _axis_order(records[index])
            if own != order and count * 2 > len(group):
                text = f"stored as {records[index]['orientation']}: other axes than most of the section"
                yield index, Flag("orientation", text)
    for group in _groups(records, lambda record: (record["section"], record["site"], _axis_order(record))):
        code, count = Counter(records[index]["orientation"] for index in group).most_common(1)[0]
        for index in group:
            if records[index]["orientation"] != code and count >= max(MAJORITY * len(group), FEWEST_FOR_NOTE):
                text = f"stored as {records[index]['orientation']}, {count} others of the site as {code}"
                yield index, Flag("orientation", text)


def _axis_order(record: Record) -> str:
    return record["orientation"].translate(str.maketrans("LRAPSI", "xxyyzz"))


def _unusual_flags(records: Sequence[Record]) -> Iterable[tuple[int, Flag]]:
    """Robust outliers within section and site, or within the section where the site has too few scans."""
    for section in _groups(records, lambda record: record["section"]):
        site_of = Counter(records[index]["site"] for index in section)
        for measure in MEASURES:
            for site in site_of:
                own = _with_value(records, [index for index in section if records[index]["site"] == site], measure)
                enough = len(own) >= FEWEST_IN_GROUP
                reference = own if enough else _with_value(records, section, measure)
                if len(reference) < FEWEST_IN_GROUP:
                    continue
                where = f"{site or 'the section'}" if enough else "the section"
                yield from _far_from(records, own, reference, measure, where)


def _far_from(
    records: Sequence[Record], own: Sequence[int], reference: Sequence[int], measure: Measure, where: str
) -> Iterable[tuple[int, Flag]]:
    values = np.array([records[index][measure.key] for index in reference], dtype=float)
    contrast = float(np.median([records[index]["q99"] - records[index]["q1"] for index in reference]))
    logarithmic = measure.key not in _LINEAR and bool((values > 0).all())
    floor = measure.floor * (contrast if measure.key.startswith("q") and not logarithmic else 1)
    median = float(np.median(values))
    for index in own:
        z = robust_z(records[index][measure.key], values, floor, logarithmic)
        if abs(z) > Z_LIMIT:
            value = records[index][measure.key]
            text = f"{measure.name} {_short(value)}{measure.unit}, median of {where} {_short(median)}{measure.unit}"
            yield index, Flag("unusual", f"{text} (z = {z:+.1f})")


def robust_z(value: float, values: np.ndarray, floor: float, logarithmic: bool = False) -> float:
    """Distance from the median in robust standard deviations, 1.4826 times the median absolute deviation.

    Args:
        value: the value to judge.
        values: those of its group, shape (n,).
        floor: least deviation that is used.
        logarithmic: whether to compare logarithms; all must be positive then.
    """
    if logarithmic:
        value, values = math.log(value), np.log(values)
    middle = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - middle)))
    return (value - middle) / max(deviation, floor, 1e-12)


def _take_out_notes(records: Sequence[Record], flags: list[list[Flag]]) -> list[str]:
    """Turn protocol rules that most scans of a site break into one note, and take them off the scans."""
    notes = []
    for group in _groups(records, lambda record: (record["section"], record["site"])):
        for rule in PROTOCOL_RULES:
            hits = [index for index in group if any(flag.rule == rule for flag in flags[index])]
            if len(group) < FEWEST_FOR_NOTE or len(hits) * 2 <= len(group):
                continue
            first = records[group[0]]
            place = first["section"] + (f", {first['site']}" if first["site"] else "")
            example = next(flag.text for flag in flags[hits[0]] if flag.rule == rule)
            notes.append(f"{place}: {len(hits)} of {len(group)} scans have {RULES[rule]} (e.g. {example})")
            for index in hits:
                flags[index] = [flag for flag in flags[index] if flag.rule != rule]
    return notes


def _groups(records: Sequence[Record], key: Callable[[Record], Any]) -> list[list[int]]:
    groups = defaultdict(list)
    for index, record in enumerate(records):
        groups[key(record)].append(index)
    return list(groups.values())


def _with_value(records: Sequence[Record], indices: Sequence[int], measure: Measure) -> list[int]:
    """Those of the scans that have the measure; an empty structure has its own rule."""
    empty = ("vs_ml", "cochlea_ml")
    values = {index: records[index].get(measure.key) for index in indices}
    return [i for i, value in values.items() if value is not None and not (measure.key in empty and value == 0)]


def _within(value: float, span: tuple[float, float]) -> bool:
    """Whether a value, rounded as the range was when it was published, lies in it."""
    digits = [len(f"{edge:g}".partition(".")[2]) for edge in span]
    return round(value, digits[0]) >= span[0] and round(value, digits[1]) <= span[1]


def _short(value: float) -> str:
    """Three digits, and no powers of ten for large numbers."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _span(span: tuple[float, float], unit: str) -> str:
    return f"{span[0]:g}-{span[1]:g} {unit}"
