"""The ensemble that self-training ends with: its description on disk, and its predictions on raw scans."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crossmoda.data import (
    find_faults,
    input_items,
    read_header,
    save_nifti,
    save_probabilities,
    write_datalist,
    write_text,
)
from crossmoda.data.nifti import open_nifti
from crossmoda.data.validation import raise_first
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.fusion import with_likeness
from crossmoda.postprocessing import Classes, apply_rules, read_rules
from crossmoda.selftraining.members import Member, Network, prediction
from crossmoda.selftraining.steps import run_bundle
from crossmoda.selftraining.teacher import FileMembers, fuse
from crossmoda.uncertainty import case_report, write_reference, write_report

logger = logging.getLogger(__name__)

FILE = "ensemble.json"
SECTION = "target_validation"


def write_ensemble(
    networks: Mapping[Network, Path], round_number: int, fusion: str, classes: Classes, path: Path
) -> None:
    """Write down what a round's ensemble is made of.

    Args:
        networks: with their checkpoints.
        round_number: in which they were trained.
        fusion: rule of `crossmoda.fusion`.
        classes: of the networks.
        path: the file; checkpoints are written relative to it.
    """
    entries = [
        {
            "member": asdict(network.member),
            "fold": network.fold,
            "checkpoint": os.path.relpath(checkpoint, path.parent),
        }
        for network, checkpoint in networks.items()
    ]
    content = {"round": round_number, "fusion": fusion, "classes": asdict(classes), "networks": entries}
    write_text(json.dumps(content, indent=1) + "\n", path)


def read_ensemble(path: str | Path) -> tuple[dict[str, Any], list[tuple[Network, Path]]]:
    """Read what `write_ensemble` wrote.

    Returns:
        The file's other entries, and the networks with their checkpoints.

    Raises:
        InputError: if the file is missing or not of this kind.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"{path} is missing: run train.yaml of self-training first, or name its {FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        networks = [
            (
                Network(Member(**entry["member"]), entry["fold"]),
                Path(os.path.normpath(path.parent / entry["checkpoint"])),
            )
            for entry in content["networks"]
        ]
        content["classes"] = Classes(tuple(content["classes"]["tumour"]), content["classes"]["cochlea"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} describes no ensemble: run train.yaml of self-training again") from None
    return content, networks


def predict_ensemble(
    ensemble: str | Path,
    output_dir: str | Path,
    input: str | Path | None = None,  # noqa: A002 - the command line's --input
    data_list: str | Path | None = None,
    section: str | None = None,
    postprocessing_rules: Sequence[str] | str = (),
    save_probability_maps: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
    preparation: str | Path | None = None,
    reference: str | Path | None = None,
) -> None:
    """Segment raw scans: each network's prediction, their fusion, post-processing.

    Writes `<case>_seg.nii.gz`, and `<case>_seg.json` with volumes, entropy, the networks' agreement and flags.

    Args:
        ensemble: of `write_ensemble`.
        output_dir: where to write.
        input: a scan or a folder of scans.
        data_list: or a data list.
        section: its section.
        postprocessing_rules: of `crossmoda.postprocessing`.
        save_probability_maps: also write the mean probabilities `<case>_prob.nii.gz`.
        options: overrides of the segmentation bundles' inference, e.g. `threads`.
        progress: whether to show a bar.
        preparation: for networks trained on prepared volumes (overlay `prepared`): the folder of `prepare.py`, through
            whose steps raw scans are taken; None takes the scans as they are.
        reference: of `write_ensemble_reference`, with which the first network compares the scans; None, or no such
            file: no scan is unlike the training's.

    Raises:
        InputError: if the ensemble or a scan has a fault, or a network's prediction fails.
    """
    content, networks = _networks(ensemble, preparation)
    rules = read_rules(postprocessing_rules)
    items = input_items(input, data_list, section, check="header", progress=False)
    raise_first(find_faults(items, progress=progress))
    output_dir = Path(output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".members_", dir=output_dir) as folder:
        scans = Path(folder) / "scans.json"
        write_datalist({SECTION: [{key: item[key] for key in ("case", "site", "image")} for item in items]}, scans)
        own = {"data_list": str(scans), "section": SECTION, "progress": False, **(options or {})}
        folders = []
        for network, checkpoint in tqdm(networks, desc="Networks", disable=None if progress else True):
            likeness = {"reference": str(reference)} if reference and not folders else {}
            folders.append(Path(folder) / network.name)
            files, values = prediction(network, content["round"], checkpoint, folders[-1], own | likeness)
            run_bundle(f"prediction by {network.name}", files, values, output_dir / "logs" / f"{network.name}.log")
        for item in items:
            _write(item, folders, content, rules, output_dir, save_probability_maps)
    logger.info(f"{len(items)} scan(s) segmented by {len(networks)} network(s): {output_dir}")


def write_ensemble_reference(
    ensemble: str | Path,
    output_dir: str | Path,
    path: str | Path,
    data_list: str | Path,
    section: str,
    options: Mapping[str, Any] | None = None,
    preparation: str | Path | None = None,
) -> None:
    """Write down what the training's target scans look like to an ensemble's first network.

    One network is enough: the others see the same scans, and each further comparison would flag more usual ones.

    Args:
        ensemble: of `write_ensemble`.
        output_dir: of the network's results on these scans.
        path: the JSON to write, see `crossmoda.uncertainty.summarise_features`.
        data_list: of raw scans.
        section: its section with the target scans.
        options: as in `predict_ensemble`; the same, for the numbers are to be compared.
        preparation: likewise.

    Raises:
        InputError: if the ensemble or a scan has a fault, or the prediction fails.
    """
    content, networks = _networks(ensemble, preparation)
    network, checkpoint = networks[0]
    output_dir = Path(output_dir).absolute()
    cases = [item["case"] for item in input_items(None, data_list, section, check="none", progress=False)]
    own = {"data_list": str(data_list), "section": section, "progress": False, **(options or {})}
    files, values = prediction(network, content["round"], checkpoint, output_dir, own)
    log = output_dir / "logs" / f"{network.name}.log"
    run_bundle(f"prediction by {network.name}", files, values | {"save_probabilities": False}, log)
    write_reference(output_dir, cases, path)


def _networks(
    ensemble: str | Path, preparation: str | Path | None
) -> tuple[dict[str, Any], list[tuple[Network, Path]]]:
    """What `read_ensemble` gives, for raw scans, with checkpoints that are there."""
    content, networks = read_ensemble(ensemble)
    if preparation:
        networks = [(for_raw_scans(network, preparation), path) for network, path in networks]
    missing = [path for _, path in networks if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: keep the rounds' folder beside {Path(ensemble).name}")
    return content, networks


def for_raw_scans(network: Network, preparation: str | Path) -> Network:
    """A network of prepared volumes that takes raw scans: overlay `preparation` in place of `prepared`.

    Args:
        network: of an ensemble.
        preparation: the folder of `prepare.py`, or the name of a recipe that learns nothing.
    """
    member = network.member
    overlays = member.overlays if member.inference_overlays is None else member.inference_overlays
    swapped = ["preparation" if name == "prepared" else name for name in overlays]
    own = {**member.infer, "preparation": str(preparation)}
    return replace(network, member=replace(member, inference_overlays=swapped, infer=own))


def _write(
    item: Mapping[str, Any],
    folders: Sequence[Path],
    content: Mapping[str, Any],
    rules: Sequence[str],
    output_dir: Path,
    probabilities: bool,
) -> None:
    classes: Classes = content["classes"]
    fused = fuse(item["case"], folders, content["fusion"], classes.cochlea + 1)
    affine, header = read_header(item["image"]).affine, open_nifti(Path(item["image"])).header
    labels = apply_rules(fused.labels, affine, rules, classes)
    save_nifti(labels, affine, output_dir / f"{item['case']}_seg.nii.gz", header=header)
    marked = list(FileMembers(item["case"], folders, classes.cochlea + 1).labels())
    report = case_report(item["case"], labels, affine, (classes.tumour, classes.cochlea), fused.probabilities, marked)
    report = with_likeness(report, folders)
    names = [folder.name for folder in folders]
    extra = {"fusion": content["fusion"], "fused": names, "postprocessing_rules": list(rules)}
    write_report({**report, **extra}, output_dir)
    if probabilities and fused.probabilities is not None:
        save_probabilities(fused.probabilities, affine, output_dir / f"{item['case']}_prob.nii.gz", header=header)


predict_ensemble_or_exit = exit_on_input_error(predict_ensemble)
write_ensemble_reference_or_exit = exit_on_input_error(write_ensemble_reference)
