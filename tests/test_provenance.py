import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import monai

from crossmoda import provenance
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


def test_a_copy_in_another_checkout_has_no_revision(tmp_path):
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    copied = Path(shutil.copy(provenance.__file__, tmp_path))
    spec = importlib.util.spec_from_file_location("copied", copied)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.git_revision() == "unknown"
    assert re.match("[0-9a-f]{40}", git_revision())


def test_versions():
    assert versions()["monai"] == monai.__version__
    assert versions()["crossmoda"]
