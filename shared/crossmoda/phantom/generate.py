"""Make a whole phantom: plan it, simulate the missing cases (in parallel), write it in a release's layout."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import InputError
from .anatomy import PARCELS, load_atlas
from .case import CaseSimulator
from .layout import (
    PlannedCase,
    case_files,
    paired_file,
    plan_cases,
    release_label,
    remove_leftovers,
    write_bytes,
    write_infos,
    write_nifti,
)

NOTE = "A simulated head phantom for development and demonstration. It holds no patient data; no number is clinical."
VERSION = 1  # raise it when the same seed would give other images


def make_case(case: PlannedCase, root: Path, release: str, preset: str) -> str:
    """Simulate one case and write its files, the facts last: they mark it as finished.

    Returns:
        The case's name.
    """
    torch.set_num_threads(1)
    simulator = CaseSimulator(case.site, case.modality, preset)
    simulator.set_random_state(case.seed)
    result = simulator(case.koos)
    files = case_files(root, release, case)
    write_nifti(files["image"], result.image, result.affine)
    write_nifti(files["label"], release_label(result.parts, release), result.affine)
    write_nifti(files["parts"], result.parts, result.affine)
    if "parcellation" in files:
        write_nifti(files["parcellation"], result.parcels, result.affine)
    facts = {"case": case.name, "section": case.section} | result.facts
    write_bytes(files["facts"], (json.dumps(facts, indent=1) + "\n").encode())
    return case.name


def make_paired(case: PlannedCase, root: Path, preset: str) -> str:
    """Render the hrT2 of a source case's subject on the ceT1's grid and write it.

    Returns:
        The case's name.
    """
    torch.set_num_threads(1)
    simulator = CaseSimulator(case.site, "ceT1", preset)
    simulator.set_random_state(case.seed)
    result = simulator.paired_target(case.koos, case.seed)
    write_nifti(paired_file(root, case), result.image, result.affine)
    return case.name


def is_finished(case: PlannedCase, root: Path, release: str) -> bool:
    """Whether all files of a case are there."""
    return all(path.exists() for path in case_files(root, release, case).values())


def check_settings(root: Path, settings: dict) -> None:
    """Refuse to mix phantoms: a folder holds cases of one version, release, preset, seed and list of sites.

    Raises:
        InputError: if the folder was made with other settings, or is no folder.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: give a folder as --output")
    path = root / "phantom.json"
    if path.exists():
        before = json.loads(path.read_text())
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(
                    f"{path}: this folder holds a phantom with {key} {before.get(key)!r}, not {value!r}: "
                    "give another --output or delete the folder"
                )
    record = settings | {"note": NOTE, "parcellation": {str(k): v for k, v in PARCELS.items()}}
    write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())


def make_phantom(
    root: Path | str,
    preset: str = "demo",
    release: str = "2022",
    sites: list[str] | None = None,
    source: int = 24,
    target: int = 24,
    validation: int = 8,
    seed: int = 0,
    jobs: int = 1,
    progress: bool = True,
    paired: bool = False,
) -> list[PlannedCase]:
    """Make a phantom folder, or what is still missing of it.

    Args:
        root: output folder.
        preset: "demo" (small matrix) or "full" (the sites' own matrices).
        release: layout, "2022" or "2023".
        sites: of "ldn", "etz", "ukm" (the last in 2023 only).
        source: number of labelled ceT1 cases, all sites together.
        target: number of hrT2 training cases.
        validation: number of hrT2 validation cases.
        seed: the phantom's seed; same seed, same bytes.
        jobs: processes; they do not change the result.
        progress: show a progress bar.
        paired: besides, the hrT2 of each source case's subject in `truth/training_source`; it changes no other file.

    Returns:
        All planned cases.

    Raises:
        InputError: if the plan is impossible or the folder holds another phantom.
    """
    root, sites = Path(root), sites or ["ldn", "etz"]
    counts = {"source_training": source, "target_training": target, "target_validation": validation}
    cases = plan_cases(release, sites, counts, seed)
    check_settings(root, {"version": VERSION, "release": release, "preset": preset, "sites": sites, "seed": seed})
    write_infos(root, release, cases)
    remove_leftovers(root)
    wanted = [partial(make_case, case, root, release, preset) for case in cases if not is_finished(case, root, release)]
    total = len(cases)
    if paired:
        sources = [case for case in cases if case.section == "source_training"]
        wanted += [partial(make_paired, case, root, preset) for case in sources if not paired_file(root, case).exists()]
        total += len(sources)
    with tqdm(total=total, initial=total - len(wanted), desc="phantom", unit="scan", disable=not progress) as bar:
        _run(wanted, jobs, bar)
    return cases


def _run(wanted: list[Callable[[], str]], jobs: int, bar: tqdm) -> None:
    """Make the scans, `jobs` at a time."""
    if not wanted:
        return
    torch.set_num_threads(1)
    load_atlas()
    if jobs == 1:
        for make in wanted:
            make()
            bar.update()
        return
    # Forked processes share the atlas; nothing has started a thread pool yet (one thread each).
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for _ in pool.imap_unordered(_call, wanted):
            bar.update()


def _call(make: Callable[[], str]) -> str:
    return make()
