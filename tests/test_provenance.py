import re
import subprocess

import monai

from crossmoda.provenance import git_revision, versions


def test_revision_of_a_checkout(tmp_path):
    assert git_revision(tmp_path) == "unknown"
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = git_revision(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path) == clean + "-dirty"


def test_versions():
    assert versions()["monai"] == monai.__version__
    assert versions()["crossmoda"]
