"""Zip files with the same bytes for the same content, and their careful unpacking."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from crossmoda.data import replacing
from crossmoda.errors import InputError

CHECKSUMS = "checksums.sha256"
# The least time that a zip can hold, so that no clock is in the bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)
LARGEST = 8 * 2**30  # bytes of all files together; a zip that claims more is refused


def checksums(files: Mapping[str, bytes]) -> bytes:
    """Lines as `sha256sum --check` reads them, sorted by name.

    Args:
        files: name and content.
    """
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def write_archive(folder: str, files: Mapping[str, bytes], path: str | Path) -> None:
    """Write a zip with one folder; its bytes depend on the content only.

    Stored and not compressed: weights hardly shrink, and the bytes of a compression depend on zlib's version.

    Args:
        folder: the name of the only entry at the top.
        files: name below the folder and content; `checksums.sha256` is added.
        path: the zip; written whole or not at all.
    """
    files = {**files, CHECKSUMS: checksums(files)}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{folder}/{name}", EPOCH)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[name])


def unpack_bundle(path: str | Path, folder: str | Path) -> Path:
    """Unpack a bundle's zip whose members stay inside the folder, and compare its checksums.

    Args:
        path: a zip with one folder at the top.
        folder: where that folder is put; it must not be there yet.

    Returns:
        The bundle's folder.

    Raises:
        InputError: if the file is no zip, a member leads elsewhere, is a link or is doubled, or a checksum differs.
    """
    path, folder = Path(path), Path(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            top = _check_members(path, archive.infolist())
            root = folder / top
            if root.exists():
                raise InputError(f"{root} is there already: remove it, or unpack elsewhere")
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path} cannot be unpacked: {error}") from None
    try:
        check_checksums(root)
    except InputError:
        shutil.rmtree(root)
        raise
    return root


def check_checksums(root: str | Path) -> None:
    """Compare an unpacked bundle with its checksums.

    Raises:
        InputError: if there are none, or a file is missing, added or changed.
    """
    root = Path(root)
    if not (root / CHECKSUMS).is_file():
        raise InputError(f"{root} has no {CHECKSUMS}: it was not made by scripts/package_bundle.py")
    expected = dict(reversed(line.split("  ", 1)) for line in (root / CHECKSUMS).read_text().splitlines())
    there = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    there.pop(CHECKSUMS)
    for name in sorted(expected.keys() | there.keys()):
        if name not in there or name not in expected:
            raise InputError(f"{root}: {name} is {'missing' if name in expected else 'not of the package'}")
        if hashlib.sha256(there[name].read_bytes()).hexdigest() != expected[name]:
            raise InputError(f"{root}: {name} has changed since the package was made")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> str:
    """The one folder at the top."""
    names = [member.filename for member in members]
    for member in members:
        parts = PurePosixPath(member.filename).parts
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not parts or parts[0] == "/" or ".." in parts or "\\" in member.filename or ":" in member.filename:
            raise InputError(f"{path} is refused: its member '{member.filename}' leads out of the folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{path} is refused: its member '{member.filename}' is a link or a device")
    tops = {PurePosixPath(name).parts[0] for name in names}
    if len(tops) != 1 or len(set(names)) != len(names):
        raise InputError(f"{path} is refused: a bundle's zip has one folder at the top, and no name twice")
    if sum(member.file_size for member in members) > LARGEST:
        raise InputError(f"{path} is refused: it would take more than {LARGEST // 2**30} GiB")
    return tops.pop()
