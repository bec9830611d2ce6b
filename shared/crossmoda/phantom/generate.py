"""Make a whole phantom: plan it, simulate the missing cases (in parallel), write it in a release's layout."""

from __future__ import annotations

import json
import multiprocessing
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
    missing = [case for case in cases if not is_finished(case, root, release)]
    bar = tqdm(total=len(cases), initial=len(cases) - len(missing), desc="phantom", unit="case", disable=not progress)
    with bar:
        if not missing:
            return cases
        torch.set_num_threads(1)
        load_atlas()
        work = partial(make_case, root=root, release=release, preset=preset)
        if jobs == 1:
            for case in missing:
                work(case)
                bar.update()
            return cases
        # Forked processes share the atlas; nothing has started a thread pool yet (one thread each).
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            for _ in pool.imap_unordered(work, missing):
                bar.update()
    return cases
