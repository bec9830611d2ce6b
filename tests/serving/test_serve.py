"""The command `scripts/serve.py`, up to where it becomes the server."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def serve(monkeypatch):
    """The script as a module, in an environment that seems to have MONAI Label; what it would run is returned."""
    spec = importlib.util.spec_from_file_location("serve_script", ROOT / "scripts/serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.started = []
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "make_app", lambda folder, *rest: Path(folder).mkdir() or module.started.append(rest))
    monkeypatch.setattr(module.os, "execve", lambda *rest: module.started.append(rest))
    monkeypatch.setattr(module.os, "chdir", lambda folder: None)
    return module


def test_it_listens_on_this_machine_alone_and_serves_copies_beside_the_studies(serve, tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    serve.main(["--bundles", "segmentation-2.5d", "--studies", str(tmp_path / "scans")])
    command, environment = serve.started[1][1:]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--app") + 1] == str(tmp_path / "scans.served")
    assert environment["CROSSMODA_SERVED_HOSTS"] == "127.0.0.1,localhost"
    assert environment["MONAI_LABEL_SESSIONS"] == "false"
    assert environment["TMPDIR"] == str(tmp_path / "scans.served/uploads")
    assert "WARNING" not in capsys.readouterr().err


def test_other_hosts_are_warned_of(serve, tmp_path, capsys):
    serve.main(["--bundles", "segmentation-2.5d", "--studies", str(tmp_path), "--host", "0.0.0.0"])
    assert "no authentication" in capsys.readouterr().err
    assert serve.started[1][2]["CROSSMODA_SERVED_HOSTS"] == "*"


def test_overlays_are_of_one_bundle_or_of_all(serve, tmp_path):
    words = ["--bundles", "segmentation-2.5d,translation", "--studies", str(tmp_path)]
    words += ["--weights", "segmentation-2.5d=a.pt", "translation=b.pt"]
    serve.main([*words, "--overlays", "segmentation-2.5d=li2021,phantom", "translation=phantom"])
    bundles, weights, overlays = serve.started[0][:3]
    assert bundles == ["segmentation-2.5d", "translation"]
    assert weights == {"segmentation-2.5d": "a.pt", "translation": "b.pt"}
    assert overlays == {"segmentation-2.5d": ["li2021", "phantom"], "translation": ["phantom"]}
    assert serve.read_pairs(["phantom"], bundles, "--overlays") == dict.fromkeys(bundles, "phantom")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--studies", "absent"], "absent is not a folder"),
        (["--port", "0"], "--port 0"),
        (["--app_dir", "{studies}/app"], "lies in the studies"),
        (["--weights", "model.pt"], "give NAME=PATH"),
        (["--overlays", "phantom", "segmentation-2.5d=li2021"], "once a bundle"),
    ],
)
def test_faults_are_one_line_each(serve, tmp_path, capsys, words, message):
    words = [word.format(studies=tmp_path) for word in words]
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--bundles", "segmentation-2.5d", "--studies", str(tmp_path), *words])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not serve.started


def test_without_monai_label_the_environment_is_named(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--bundles", "segmentation-2.5d", "--studies", str(tmp_path)])
    assert "source scripts/label_environment.sh" in capsys.readouterr().err


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.match(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line)))


def test_both_environments_have_the_same_versions():
    main, label = pins("requirements.txt"), pins("requirements-label.txt")
    shared = main.keys() & label.keys()
    assert {"torch", "monai", "mlflow", "itk"} <= shared
    assert {name: label[name] for name in shared - {"jsonschema"}} == {
        name: main[name]
        for name in shared - {"jsonschema"}  # pydicom-seg asks for an older one
    }
