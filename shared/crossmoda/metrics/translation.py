"""Judges a set of translated volumes without any target label."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.metrics import MAEMetric, SSIMMetric
from tqdm import tqdm

from crossmoda.data import check_same_grid, load_datalist, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES, FOREGROUND
from crossmoda.metrics.comparison import gap_closed
from crossmoda.metrics.distributions import frechet_distance, log_power_spectrum
from crossmoda.metrics.features import FixedFeatures
from crossmoda.metrics.slices import as_slices, edge_agreement, slice_flicker, structure_contrast
from crossmoda.metrics.tables import Row, statistics, write_rows

logger = logging.getLogger(__name__)

# Voxels left out at the in-plane border: there a translation's region of interest was resampled against nothing.
MARGIN = 2
ALL = "all"

Item = dict[str, Any]
Transform = Callable[[Item], Item]


class SliceSet:
    """What the distances between sets of images need of each: spectra and features of their slices.

    Attributes:
        sites: of each volume.
        spectra: mean log power spectrum over the slices of each volume.
        features: (slices, 96) of each volume.
    """

    def __init__(self) -> None:
        self.network = FixedFeatures()
        self.sites: list[str] = []
        self.spectra: list[torch.Tensor] = []
        self.features: list[torch.Tensor] = []

    def add(self, volume: torch.Tensor, site: str) -> None:
        """Take in one volume (1, X, Y, Z) in [-1, 1]; slices without content are left out."""
        slices = as_slices(volume)
        slices = slices[slices.amax((1, 2, 3)) > slices.amin((1, 2, 3))]
        self.sites.append(site)
        self.spectra.append(log_power_spectrum(slices).mean(0))
        self.features.append(self.network(slices))

    def of(self, site: str) -> list[int]:
        """Places of a site's volumes, or of all."""
        return [i for i, own in enumerate(self.sites) if site in (ALL, own)]


def distance(first: SliceSet, ours: Sequence[int], second: SliceSet, theirs: Sequence[int]) -> dict[str, float]:
    """Distances between some volumes of two sets.

    Args:
        first: a set.
        ours: places of its volumes.
        second: another set.
        theirs: places of its volumes.

    Returns:
        `fid`: Fréchet distance of the slices' features (`FixedFeatures`); `spectrum_db`: mean absolute difference of
        the mean power spectra, in decibels.
    """
    features = [torch.cat([s.features[i] for i in places]) for s, places in ((first, ours), (second, theirs))]
    spectra = [torch.stack([s.spectra[i] for i in places]).mean(0) for s, places in ((first, ours), (second, theirs))]
    return {
        "fid": frechet_distance(*features),
        "spectrum_db": 10 * float((spectra[0] - spectra[1]).abs().mean()),
    }


def compare_sets(translated: SliceSet, source: SliceSet, target: SliceSet) -> dict[str, dict[str, Any]]:
    """Distances of translations to real target scans, between the bounds that the data themselves give.

    Args:
        translated: the translations.
        source: the untranslated scans; they give the upper bound.
        target: real scans; the distance between two halves of them is the lower bound.

    Returns:
        For "all" target scans and for those of each target site: {"targets": scans, "fid" and "spectrum_db":
        {"translated", "source", "target_halves", "closed"}}, closed being the share of the gap between the bounds
        that the translation closes; halves and share are None for fewer than two scans.
    """
    sites = [ALL, *sorted(set(target.sites))] if len(set(target.sites)) > 1 else [ALL]
    found: dict[str, dict[str, Any]] = {}
    for site in sites:
        theirs = target.of(site)
        ours = distance(translated, translated.of(ALL), target, theirs)
        untranslated = distance(source, source.of(ALL), target, theirs)
        # Every second one, because the sites of a list take turns or follow each other.
        halves = _halves(target, theirs)
        found[site] = {"targets": len(theirs)}
        for name, value in ours.items():
            floor = halves[name] if halves else None
            found[site][name] = {
                "translated": value,
                "source": untranslated[name],
                "target_halves": floor,
                "closed": None if floor is None else gap_closed(value, untranslated[name], floor),
            }
    return found


def judge_case(
    translated: torch.Tensor, source: torch.Tensor, label: torch.Tensor, truth: torch.Tensor | None = None
) -> Row:
    """Measures of one translated volume.

    Args:
        translated: (1, X, Y, Z) in [-1, 1].
        source: the scan that was translated, on the same grid.
        label: its label.
        truth: the real hrT2 of the same subject on the same grid, if known.

    Returns:
        `edges_kept`, `edges_new` (`edge_agreement`), `contrast_*` (per cent of the intensity range) and `visible_*`
        (`structure_contrast`), `flicker_percent` (`slice_flicker`); with the truth also `mae_percent` and those of VS
        and cochlea alone, in per cent of the range, and `ssim_2d`, the mean over the slices.
    """
    row: Row = edge_agreement(translated, source) | structure_contrast(translated, label)
    row["flicker_percent"] = slice_flicker(translated, source)
    if truth is None:
        return row
    ours, theirs = as_slices(translated), as_slices(truth)
    row["mae_percent"] = 50 * float(MAEMetric()(ours, theirs).mean())
    for structure in FOREGROUND:
        inside = label == structure
        error = (translated - truth)[inside].abs().mean() if inside.any() else torch.tensor(float("nan"))
        row[f"mae_percent_{CLASS_NAMES[structure]}"] = 50 * float(error)
    row["ssim_2d"] = float(SSIMMetric(spatial_dims=2, data_range=2.0)(ours, theirs).mean())
    return row


def evaluate_translations(
    translations: str | Path,
    data_list: str | Path,
    transform: Transform,
    output_dir: str | Path | None = None,
    source_section: str = "source_training",
    target_section: str = "target_training",
    paired_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge translated volumes; writes `metrics.csv` (a row per case) and `summary.json`.

    Args:
        translations: the datalist that inference wrote, or its folder.
        data_list: the datalist with the source scans, their labels, and real target scans (whose labels are not read).
        transform: prepares {image, label?} alike for all volumes: (1, X, Y, Z), the image in [-1, 1].
        output_dir: where the files go; None: beside the translations.
        source_section: section of both lists.
        target_section: section of `data_list`.
        paired_dir: folder with `<case>_hrT2.nii.gz`, the true hrT2 on the grid of each source scan.
        progress: whether to show a bar.

    Returns:
        The summary: {"n", "paired", "cases": {column: {"mean", "sd", "median"}}, "sites": {site: the same},
        "truth": {column: ...} of the paired scans themselves, as the yardstick, "distances": see `compare_sets`}.

    Raises:
        InputError: if a list or a file has a fault, a case was never a source, or a volume lies on another grid than
            its source scan or has no contrast.
    """
    items = _items(translations, data_list, source_section, paired_dir)
    targets = load_datalist(data_list, target_section, check="header", progress=False)
    sets = {name: SliceSet() for name in ("translated", "source", "target")}
    rows, yardstick = [], []
    bar = {"unit": "scan", "disable": None if progress else True, "leave": False}
    for item in tqdm(items, desc="Judging", **bar):
        volumes = _load(item, transform)
        label = volumes.pop("label")
        truth = volumes.get("truth")
        names = {key: item[key] for key in ("case", "site")}
        rows.append(names | judge_case(volumes["image"], volumes["source"], label, truth))
        if truth is not None:
            yardstick.append(names | judge_case(truth, volumes["source"], label))
        sets["translated"].add(volumes["image"], item["site"])
        sets["source"].add(volumes["source"], item["site"])
    for item in tqdm(targets, desc="Real targets", **bar):
        sets["target"].add(_prepared(item["image"], transform), item["site"])
    summary = summarise_translations(rows) | {"truth": summarise_translations(yardstick)["cases"] if yardstick else {}}
    summary |= {"paired": bool(paired_dir), "distances": compare_sets(**sets)}
    folder = Path(output_dir) if output_dir else _list_file(translations).parent
    write_text(json.dumps(summary, indent=1) + "\n", folder / "summary.json")
    write_rows(rows, folder / "metrics.csv")  # last: the sign that the evaluation is done
    _log(summary)
    return summary


def summarise_translations(rows: Sequence[Row]) -> dict[str, Any]:
    """Statistics of every measure, over all cases and per site: {"n", "cases", "sites"}."""
    columns = [name for name in rows[0] if name not in ("case", "site")]

    def group(some: Sequence[Row]) -> dict[str, Any]:
        return {name: statistics([row[name] for row in some]) for name in columns}

    sites = sorted({row["site"] for row in rows})
    return {
        "n": len(rows),
        "cases": group(rows),
        "sites": {site: group([row for row in rows if row["site"] == site]) for site in sites},
    }


def _list_file(translations: str | Path) -> Path:
    path = Path(translations).absolute()
    return path / "datalist.json" if path.is_dir() else path


def _items(translations: str | Path, data_list: str | Path, section: str, paired_dir: str | Path | None) -> list[Item]:
    """Items {case, site, image, source, label, truth?}, whose volumes lie on one grid."""
    sources = {
        item["case"]: item
        for item in load_datalist(data_list, section, require_label=True, check="header", progress=False)
    }
    items = []
    for item in load_datalist(_list_file(translations), section, check="header", progress=False):
        case = item["case"]
        if case not in sources:
            raise InputError(f"{case} of {translations} is not in section {section} of {data_list}: name its own list")
        source = sources[case]
        whole = {"case": case, "site": source["site"], "image": item["image"], "source": source["image"]}
        whole["label"] = source["label"]
        if paired_dir:
            truth = Path(paired_dir).absolute() / f"{case}_hrT2.nii.gz"
            if not truth.is_file():
                raise InputError(f"{truth} is missing: make it with make_phantom.py --paired")
            whole["truth"] = str(truth)
        for key in ("image", "truth"):
            if key in whole:
                check_same_grid(whole[key], whole["source"])
        items.append(whole)
    return items


def _load(item: Item, transform: Transform) -> dict[str, torch.Tensor]:
    source = transform({"image": item["source"], "label": item["label"]})
    volumes = {"source": _image(source["image"], item["source"]), "label": _inner(source["label"])}
    return volumes | {key: _prepared(item[key], transform) for key in ("image", "truth") if key in item}


def _prepared(path: str, transform: Transform) -> torch.Tensor:
    return _image(transform({"image": path})["image"], path)


def _image(volume: torch.Tensor, path: str) -> torch.Tensor:
    volume = _inner(volume)
    if not (volume.amax((0, 1, 2)) > volume.amin((0, 1, 2))).any():
        raise InputError(f"{path} has no slice with any contrast within the region of interest: leave its case out")
    return volume


def _inner(volume: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(volume).float()[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _halves(target: SliceSet, places: Sequence[int]) -> dict[str, float] | None:
    """Distance between two halves of some volumes, each with every site's share."""
    by_site = sorted(places, key=lambda i: target.sites[i])
    return distance(target, by_site[::2], target, by_site[1::2]) if len(places) > 1 else None


def _log(summary: dict[str, Any]) -> None:
    whole, cases = summary["distances"][ALL], summary["cases"]
    logger.info(
        f"{summary['n']} translations: features {whole['fid']['translated']:.4g} from {whole['targets']} real scans"
        f" (untranslated {whole['fid']['source']:.4g}), spectrum {whole['spectrum_db']['translated']:.2f} dB,"
        f" edges kept {_mean(cases['edges_kept'], 3)}, flicker {_mean(cases['flicker_percent'], 2)} %"
    )


def _mean(column: dict[str, float | None], digits: int) -> str:
    """The mean as text; it is None where no case could be measured."""
    return "?" if column["mean"] is None else f"{column['mean']:.{digits}f}"


evaluate_translations_or_exit = exit_on_input_error(evaluate_translations)
