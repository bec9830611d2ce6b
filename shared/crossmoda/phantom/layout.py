"""Where a phantom's files lie and what they are called: exactly as in the crossMoDA 2022 and 2023 releases.

The hidden truth of the target scans has a tree of its own (`truth/`), which no training configuration may read.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..labels import MERGE_2023

SECTIONS = ("source_training", "target_training", "target_validation")
SITES = ("ldn", "etz", "ukm")


@dataclass(frozen=True)
class Release:
    """Names of one release.

    Attributes:
        training: folder of the training data.
        folders: folder of each section, relative to the root.
        names: case name of each site, with a place for the number.
        first: first number of each site in each section.
        limit: how many numbers each site has in each section (None: as many as wanted).
        target_suffix: what target image names end with.
        parts_in_label: True if labels hold extra-meatal, intra-meatal and cochlea (2023), False for VS and cochlea.
    """

    training: str
    folders: dict[str, str]
    names: dict[str, str]
    first: dict[str, tuple[int, int, int]]
    limit: dict[str, int | None]
    target_suffix: str
    parts_in_label: bool


RELEASES = {
    "2022": Release(
        training="crossmoda2022_training",
        folders={
            "source_training": "crossmoda2022_training/training_source",
            "target_training": "crossmoda2022_training/training_target",
            "target_validation": "crossmoda2022_validation/validation",
        },
        names={"ldn": "crossmoda2021_ldn_{}", "etz": "crossmoda2022_etz_{}"},
        first={"ldn": (1, 106, 211), "etz": (0, 105, 210)},
        limit={"source_training": 105, "target_training": 105, "target_validation": 32},
        target_suffix="hrT2",
        parts_in_label=False,
    ),
    "2023": Release(
        training="crossmoda23_training",
        folders={
            "source_training": "crossmoda23_training/TrainingSource",
            "target_training": "crossmoda23_training/TrainingTarget",
            "target_validation": "crossmoda23_validation",
        },
        names={site: f"crossmoda2023_{site}_{{}}" for site in SITES},
        # The first target numbers are the release's; where validation begins we do not know, so these are ours.
        first={"ldn": (1, 80, 185), "etz": (1, 106, 211), "ukm": (1, 44, 129)},
        limit={"source_training": 43, "target_training": 85, "target_validation": None},
        target_suffix="T2",
        parts_in_label=True,
    ),
}
INFO_COLUMNS = ("crossmoda_name", "center", "group", "koos")
TRUTH_FOLDERS = {"target_training": "training_target", "target_validation": "validation"}


@dataclass(frozen=True)
class PlannedCase:
    """One case to be made: where it belongs, what it is called, its grade and its own seed."""

    section: str
    site: str
    name: str
    koos: int
    seed: int

    @property
    def modality(self) -> str:
        """The modality of its section: ceT1 for the source, hrT2 for the target."""
        return "ceT1" if self.section == "source_training" else "hrT2"


def plan_cases(release: str, sites: list[str], counts: dict[str, int], seed: int) -> list[PlannedCase]:
    """List all cases of a phantom.

    Sites take turns. Of each four consecutive cases of a section every grade has one, and within four times as many
    cases as there are sites each site has had every grade. A case depends on the seed, its section, site and number
    only, so that a phantom can be extended.

    Args:
        release: "2022" or "2023".
        sites: of "ldn", "etz", "ukm".
        counts: number of cases of each section, all sites together.
        seed: the phantom's seed.

    Returns:
        The cases in the order of the sections.

    Raises:
        InputError: if the release does not have the site or that many numbers.
    """
    spec = RELEASES[release]
    for site in sites:
        if site not in spec.names:
            raise InputError(
                f"release {release} has no site {site!r}: use --release 2023, or one of {list(spec.names)}"
            )
    cases = []
    for index, section in enumerate(SECTIONS):
        R = np.random.RandomState(np.random.SeedSequence([seed, index]).generate_state(4))
        grades: list[int] = []
        while len(grades) < counts[section]:
            order = list(R.permutation(4) + 1)
            for turn in range(len(sites)):
                cut = turn % 4 if len(sites) % 2 == 0 else 0
                grades += order[cut:] + order[:cut]
        limit = spec.limit[section]
        if limit is not None and counts[section] > limit * len(sites):
            raise InputError(
                f"{counts[section]} cases asked for {section}: release {release} has numbers for {limit} a site, "
                f"so at most {limit * len(sites)} for {len(sites)} sites"
            )
        for n in range(counts[section]):
            site = sites[n % len(sites)]
            number = n // len(sites)
            key = [seed, index, SITES.index(site), number]
            name = spec.names[site].format(spec.first[site][index] + number)
            case_seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            cases.append(PlannedCase(section, site, name, int(grades[n]), case_seed))
    return cases


def case_files(root: Path, release: str, case: PlannedCase) -> dict[str, Path]:
    """Paths of a case's files: image, label, parts, facts, and parcellation for source cases."""
    spec = RELEASES[release]
    folder = root / spec.folders[case.section]
    facts = root / "truth" / "facts" / f"{case.name}.json"
    parts = root / "truth" / "parts" / f"{case.name}_Parts.nii.gz"
    if case.section == "source_training":
        gif = folder.with_name(folder.name + "_GIF")
        return {
            "image": folder / f"{case.name}_ceT1.nii.gz",
            "label": folder / f"{case.name}_Label.nii.gz",
            "parcellation": gif / f"{case.name}_GIFoutput.nii.gz",
            "parts": parts,
            "facts": facts,
        }
    return {
        "image": folder / f"{case.name}_{spec.target_suffix}.nii.gz",
        "label": root / "truth" / TRUTH_FOLDERS[case.section] / f"{case.name}_Label.nii.gz",
        "parts": parts,
        "facts": facts,
    }


def paired_file(root: Path, case: PlannedCase) -> Path:
    """Path of the hrT2 that belongs to a source case: the truth of its translation."""
    return root / "truth" / "training_source" / f"{case.name}_hrT2.nii.gz"


def release_label(parts: np.ndarray, release: str) -> np.ndarray:
    """The release's label map from the three parts (1 extra-meatal, 2 intra-meatal, 3 cochlea)."""
    if RELEASES[release].parts_in_label:
        return parts
    lookup = np.array([MERGE_2023[n] for n in range(4)], np.uint8)
    return lookup[parts]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either absent or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def remove_leftovers(root: Path) -> None:
    """Remove the temporary files that a killed `write_bytes` left under a phantom's folder."""
    for path in root.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a gzipped NIfTI whose bytes depend on nothing but its content (no time stamp, no file name inside)."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def write_infos(root: Path, release: str, cases: list[PlannedCase]) -> None:
    """Write the CSVs of Koos grades: the release's own for the source, a hidden one for the target."""
    sources = [case for case in cases if case.section == "source_training"]
    targets = [case for case in cases if case.section != "source_training"]
    tables = {
        root / RELEASES[release].training / "infos_source_training.csv": sources,
        root / "truth" / "infos_target.csv": targets,
    }
    for path, rows in tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(INFO_COLUMNS)
        writer.writerows((case.name, case.site, case.section, case.koos) for case in rows)
        write_bytes(path, text.getvalue().encode())
