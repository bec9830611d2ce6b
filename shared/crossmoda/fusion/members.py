"""Members' results on disk: which scans they all have, and whether they fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from crossmoda.data import read_header, read_label, read_probabilities, same_grid
from crossmoda.data.nifti import open_nifti
from crossmoda.data.validation import Header
from crossmoda.errors import InputError
from crossmoda.labels import LABELS_2023, NUM_CLASSES
from crossmoda.postprocessing import Classes

SUFFIXES = {"probabilities": "prob", "labels": "seg"}
Kind = Literal["probabilities", "labels"]


@dataclass(frozen=True)
class Member:
    """One member: its name, and the folder of its results."""

    name: str
    folder: Path

    def file(self, case: str, kind: Kind) -> Path:
        """`<folder>/<case>_prob.nii.gz` or `<folder>/<case>_seg.nii.gz`."""
        return self.folder / f"{case}_{SUFFIXES[kind]}.nii.gz"

    def cases(self, kind: Kind) -> set[str]:
        """Cases that it has results of."""
        ending = f"_{SUFFIXES[kind]}.nii.gz"
        return {path.name.removesuffix(ending) for path in self.folder.glob(f"*{ending}") if path.name[0] != "."}


@dataclass(frozen=True)
class CaseFiles:
    """`CaseMembers` that are read from disk, one volume at a time.

    Attributes:
        case: the case's name.
        members: whose results are fused.
        num_classes: with background.
    """

    case: str
    members: tuple[Member, ...]
    num_classes: int

    def labels(self) -> Iterator[np.ndarray]:
        """Each member's label map; where a member has none, the most probable class."""
        for member in self.members:
            path = member.file(self.case, "labels")
            if path.is_file():
                yield self._checked(_read_labels(path, self.num_classes), read_header(path))
            else:
                yield self._member_probabilities(member).argmax(axis=0).astype(np.uint8)

    def probabilities(self) -> Iterator[np.ndarray]:
        """Each member's class probabilities."""
        return map(self._member_probabilities, self.members)

    @property
    def has_probabilities(self) -> bool:
        """Whether all members have probabilities of this case."""
        return all(member.file(self.case, "probabilities").is_file() for member in self.members)

    @property
    def grid(self) -> Header:
        """The first member's grid, which is the scan's."""
        return self._header(self.members[0])

    def _member_probabilities(self, member: Member) -> np.ndarray:
        probabilities, header = read_probabilities(member.file(self.case, "probabilities"))
        if len(probabilities) != self.num_classes:
            first = self.members[0].file(self.case, "probabilities")
            raise InputError(
                f"{header.path} has {len(probabilities)} classes, {self.num_classes} are expected as in {first}:"
                " fuse members of the same classes"
            )
        return self._checked(probabilities, header)

    def _checked(self, volume: np.ndarray, header: Header) -> np.ndarray:
        first = self.grid
        if not same_grid(header, first):
            raise InputError(
                f"{header.path} lies on another grid than {first.path}: take members' results of the same scan"
            )
        return volume

    def _header(self, member: Member) -> Header:
        path = member.file(self.case, "labels")
        if path.is_file():
            return read_header(path)
        image = open_nifti(member.file(self.case, "probabilities"))
        return Header(Path(image.get_filename()), tuple(image.shape[:3]), np.array(image.affine, dtype=float))


def as_members(entries: Sequence[str | Path]) -> list[Member]:
    """Members from folders, or from `NAME=FOLDER`; without a name it is the folder's.

    Raises:
        InputError: if a folder is missing, or two members have one name.
    """
    members = []
    for entry in map(str, entries):
        name, _, folder = entry.rpartition("=") if not Path(entry).is_dir() else ("", "", entry)
        path = Path(folder).absolute()
        if not path.is_dir():
            raise InputError(f"{path} is not a folder: give --members the output folders of inferences")
        members.append(Member(name or path.name, path))
    names = [member.name for member in members]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"two members are called '{doubled[0]}': name them, as in a={members[0].folder}")
    return members


def find_cases(members: Sequence[Member], kind: Kind, wanted: Sequence[str] | None = None) -> list[str]:
    """The cases that members have in common.

    Args:
        members: at least one.
        kind: what is read of them.
        wanted: cases that must be there; None takes all, and members must then have the same.

    Returns:
        Names, sorted (or as wanted).

    Raises:
        InputError: if a member lacks a case, or there are none.
    """
    if not members:
        raise InputError("there are no members: give --members the output folders of inferences")
    found = [member.cases(kind) for member in members]
    cases = sorted(set().union(*found)) if wanted is None else list(wanted)
    if not cases:
        hint = ": run the inference with --save_probabilities True" if kind == "probabilities" else ""
        raise InputError(f"{members[0].folder} has no *_{SUFFIXES[kind]}.nii.gz{hint or ': run the inference first'}")
    for member, own in zip(members, found, strict=True):
        missing = [case for case in cases if case not in own]
        if missing:
            mend = "run its inference on the same scans"
            if kind == "probabilities" and member.file(missing[0], "labels").is_file():
                mend += " with --save_probabilities True"
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InputError(f"{member.file(missing[0], kind)} is missing{more}: {mend}")
    return cases


def count_classes(members: Sequence[Member], case: str, default: int) -> int:
    """The number of classes with background: of the first member's probabilities, or the default without them."""
    path = members[0].file(case, "probabilities")
    return int(open_nifti(path).shape[-1]) if path.is_file() else default


def classes_of(num_classes: int) -> Classes:
    """Tumour and cochlea: the cochlea is the last class, everything before it tumour.

    Raises:
        InputError: if the classes are neither VS and cochlea nor those of `LABELS_2023`, e.g. with further structures.
    """
    if num_classes not in (NUM_CLASSES, len(LABELS_2023) + 1):
        raise InputError(
            f"{num_classes} classes with background: take results of 3 (VS, cochlea) or 4 (both parts of VS, cochlea)"
        )
    return Classes(tuple(range(1, num_classes - 1)), num_classes - 1)


def _read_labels(path: Path, num_classes: int) -> np.ndarray:
    labels, _ = read_label(path, range(256))
    if labels.max() >= num_classes:
        raise InputError(f"{path} has class {labels.max()}, but members have {num_classes} classes: give --num_classes")
    return labels
