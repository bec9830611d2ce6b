"""Zips that lead out of their folder are refused; changed files are noticed."""

from __future__ import annotations

import hashlib
import stat
import zipfile

import pytest

from crossmoda.errors import InputError
from crossmoda.packaging import check_checksums, unpack_bundle
from crossmoda.packaging.archive import checksums, write_archive


def zip_of(path, *names, mode=0):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, b"x")
    return path


def test_checksums_are_those_of_sha256sum():
    lines = checksums({"b": b"2", "a/c": b"1"}).decode().splitlines()
    assert lines == [f"{hashlib.sha256(b'1').hexdigest()}  a/c", f"{hashlib.sha256(b'2').hexdigest()}  b"]


def test_round_trip(tmp_path):
    files = {"configs/a.json": b"{}", "models/model.pt": bytes(range(256))}
    write_archive("bundle", files, tmp_path / "a.zip")
    root = unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
    assert root == tmp_path / "out" / "bundle"
    assert {name: (root / name).read_bytes() for name in files} == files
    with pytest.raises(InputError, match="is there already"):
        unpack_bundle(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "bundle/../../evil", "/evil", "bundle\\..\\evil", "C:/evil"])
def test_members_that_lead_out_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="leads out of the folder"):
        unpack_bundle(zip_of(tmp_path / "a.zip", "bundle/a", name), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_links_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a link"):
        unpack_bundle(zip_of(tmp_path / "a.zip", "bundle/a", mode=stat.S_IFLNK | 0o777), tmp_path / "out")


@pytest.mark.parametrize("names", [("a/x", "b/x"), ("a/x", "a/x")], ids=["two folders", "one name twice"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_layouts_are_refused(names, tmp_path):
    with pytest.raises(InputError, match="one folder at the top, and no name twice"):
        unpack_bundle(zip_of(tmp_path / "a.zip", *names), tmp_path / "out")


def test_what_is_no_zip(tmp_path):
    (tmp_path / "a.zip").write_text("text")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(InputError, match="has no checksums"):
        unpack_bundle(zip_of(tmp_path / "b.zip", "bundle/a"), tmp_path / "out")
    assert not (tmp_path / "out" / "bundle").exists()


def test_changes_are_noticed(tmp_path):
    write_archive("bundle", {"a": b"1", "b": b"2"}, tmp_path / "a.zip")
    root = unpack_bundle(tmp_path / "a.zip", tmp_path)
    check_checksums(root)
    (root / "a").write_bytes(b"3")
    with pytest.raises(InputError, match="a has changed"):
        check_checksums(root)
    (root / "a").unlink()
    with pytest.raises(InputError, match="a is missing"):
        check_checksums(root)
    (root / "a").write_bytes(b"1")
    (root / "c").write_bytes(b"")
    with pytest.raises(InputError, match="c is not of the package"):
        check_checksums(root)
