"""The real MONAI Label server with a tiny network: driven by MONAI Label's own client, and by plain HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from segmentation_bundle import bundle_config, write_case, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
MODEL = "segmentation-2.5d"
CASES = [f"case_{number}_hrT2" for number in range(4)]
TINY = """\
spacing: [0.8, 0.8, 1.7]
patch_size: [32, 32, 8]
window_size: [32, 32, 8]
network_def::channels: [4, 4, 4, 4, 4]
threads: 1
amp: false
localise: false
"""
# Of the bundles served beside it, with random weights.
OTHERS = {
    "translation": "pixdim: [0.8, 0.8, 1.7]\nroi_size: [32, 32, 16]\nfeatures: 4\nn_blocks: 1\namp: false\n",
    "koos-classifier": """\
spacing: [0.8, 0.8, 1.7]
roi_size: [48, 48, 24]
crop_size: [32, 32, 18]
features: 4
n_blocks: 1
hidden: 8
projection: 4
amp: false
channels_last: false
""",
}
# MONAI Label's client runs in its own environment: each line of its input is a call of one of its methods. Answers
# without a file are JSON as bytes.
CLIENT = """\
import json, sys, tempfile
from monailabel.client import MONAILabelClient
client = MONAILabelClient(sys.argv[1], tmpdir=tempfile.mkdtemp())
for line in sys.stdin:
    method, arguments = json.loads(line)
    print("ANSWER", json.dumps(getattr(client, method)(*arguments), default=json.loads), flush=True)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Python of .venv-label, which is made if it is not there (minutes); without network only CI has to have it."""
    result = subprocess.run(
        ["bash", "-c", "source scripts/label_environment.sh"], cwd=ROOT, capture_output=True, text=True
    )
    offline = "No matching distribution" in result.stderr or "connection" in result.stderr.lower()
    if result.returncode and offline and not os.environ.get("CI"):
        pytest.skip(f"no package index to make .venv-label from: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr[-3000:]
    return ROOT / ".venv-label/bin/python"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Server:
    """The running server, its folders, and two ways to ask it."""

    def __init__(self, python: Path, folder: Path, port: int) -> None:
        self.python, self.folder, self.port = python, folder, port
        self.studies, self.app = folder / "studies", folder / "studies.served"
        self.url = f"http://127.0.0.1:{port}"

    def client(self, method, *arguments):
        """The answer of one method of MONAILabelClient."""
        result = subprocess.run(
            [str(self.python), "-c", CLIENT, self.url],
            input=json.dumps([method, arguments]) + "\n",
            capture_output=True,
            text=True,
            cwd=self.folder,
        )
        assert result.returncode == 0, result.stderr[-2000:] + self.log()[-3000:]
        answers = [line for line in result.stdout.splitlines() if line.startswith("ANSWER ")]
        return json.loads(answers[-1].removeprefix("ANSWER "))

    def rest(self, path, body=None, method=None, headers=None):
        """Status and text of one HTTP request; a body is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **(headers or {})})
        request.method = method or ("GET" if body is None else "POST")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def weights(self):
        return torch.load(self.app / "model" / MODEL / "models/model.pt", weights_only=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, Path]:
    """An overlay with small sizes, and weights of its network after a few steps (random ones mark no structure)."""
    folder = tmp_path_factory.mktemp("tiny")
    overlay = folder / "tiny.yaml"
    overlay.write_text(TINY)
    values = {"max_epochs": 10, "learning_rate": 0.01, "num_workers": 0, "progress": False}
    values |= {"data_list": str(write_dataset(folder)), "output_dir": str(folder), "ckpt_dir": str(folder)}
    run(config_file=[bundle_config("train"), str(overlay)], logging_file=False, **values)
    return overlay, folder / "model.pt"


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Overlay and weights of each of `OTHERS`."""
    folder = tmp_path_factory.mktemp("others")
    made = {}
    for name, text in OTHERS.items():
        overlay, weights = folder / f"{name}.yaml", folder / f"{name}.pt"
        overlay.write_text(text)
        config = ConfigParser.load_config_files([str(ROOT / f"bundles/{name}/configs/inference.yaml"), str(overlay)])
        torch.manual_seed(0)
        torch.save(ConfigParser(config).get_parsed_content("network_def").state_dict(), weights)
        made[name] = overlay, weights
    return made


@pytest.fixture(scope="module")
def server(python, tiny, others, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    server = Server(python, folder, free_port())
    server.studies.mkdir()
    labels = folder / "truth"
    labels.mkdir()
    for number, name in enumerate(CASES):
        write_case(labels, f"case_{number}", number)
        shutil.move(labels / f"{name}.nii.gz", server.studies / f"{name}.nii.gz")
    given = {MODEL: tiny, **others}
    command = [str(python), str(ROOT / "scripts/serve.py"), "--bundles", ",".join(given)]
    command += ["--weights", *(f"{name}={weights}" for name, (_, weights) in given.items())]
    command += ["--overlays", *(f"{name}={overlay}" for name, (overlay, _) in given.items())]
    command += ["--studies", str(server.studies), "--port", str(server.port)]
    environment = {**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        for _ in range(600):
            if process.poll() is not None or "Uvicorn running" in server.log():
                break
            time.sleep(0.5)
        assert process.poll() is None, server.log()[-4000:]
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def run_bundle(name: str, folder: Path, scan: Path, given: tuple[Path, Path], weights: Path | None = None, **more):
    """`python -m monai.bundle run` on one scan; returns the files that it wrote."""
    (folder / "weights").mkdir()
    shutil.copy(weights or given[1], folder / "weights/model.pt")
    files = [str(ROOT / f"bundles/{name}/configs/inference.yaml"), str(given[0])]
    values = {"config_file": repr(files), "input": scan, "output_dir": folder, "ckpt_dir": folder / "weights", **more}
    words = [word for key, value in {**values, "progress": False}.items() for word in (f"--{key}", str(value))]
    words = [sys.executable, "-m", "monai.bundle", "run", *words]
    result = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_the_server_says_what_it_has(server):
    info = server.client("info")
    model = info["models"][MODEL]
    assert (model["type"], model["labels"], model["dimension"]) == ("segmentation", {"vs": 1, "cochlea": 2}, 3)
    assert list(info["trainers"]) == [MODEL]
    assert {"max_epochs", "val_split", "learning_rate"} <= set(info["trainers"][MODEL]["config"])
    assert next(iter(info["strategies"])) == "uncertainty"
    assert info["datastore"]["total"] == len(CASES)
    assert info["datastore"]["completed"] == 0
    assert json.loads(server.rest("/info/")[1])["models"] == info["models"]


def test_a_label_is_in_the_scan_s_own_grid_and_equals_the_bundle_s(server, tiny, tmp_path):
    path, answer = server.client("infer", MODEL, CASES[0], {})
    scan = nib.load(server.studies / f"{CASES[0]}.nii.gz")
    report, expected = run_bundle(MODEL, tmp_path, Path(scan.get_filename()), tiny)
    label, expected = nib.load(path), nib.load(expected)
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(label.affine, scan.affine)
    np.testing.assert_array_equal(label.affine, expected.affine)
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(expected.dataobj))
    assert len(np.unique(np.asarray(label.dataobj))) > 1  # else a wrong grid would not be seen
    assert answer["report"] == json.loads(report.read_text())
    assert answer["label_names"] == {"vs": 1, "cochlea": 2}


def test_an_nrrd_for_slicer_holds_the_same_voxels(server):
    parameters = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # what the extension of 3D Slicer asks for
    nrrd, _ = server.client("infer", MODEL, CASES[0], parameters)
    path, _ = server.client("infer", MODEL, CASES[0], {})
    script = "import sys, nrrd, numpy; numpy.save(sys.argv[2], nrrd.read(sys.argv[1])[0])"
    subprocess.run([str(server.python), "-c", script, nrrd, str(server.folder / "nrrd.npy")], check=True)
    np.testing.assert_array_equal(np.load(server.folder / "nrrd.npy"), np.asarray(nib.load(path).dataobj))


def test_an_uploaded_scan_is_segmented_too(server):
    scan = server.studies / f"{CASES[1]}.nii.gz"
    path, _ = server.client("infer", MODEL, "", {}, None, str(scan))
    other, _ = server.client("infer", MODEL, CASES[1], {})
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), np.asarray(nib.load(other).dataobj))


def test_next_is_the_scan_with_the_most_uncertain_segmentation(server):
    answers = [json.loads(server.rest("/activelearning/uncertainty", {})[1]) for _ in CASES]
    assert sorted(answer["id"] for answer in answers) == CASES  # asking again passes a scan over
    uncertainties = [answer["uncertainty"] for answer in answers]
    assert uncertainties == sorted(uncertainties, reverse=True)
    assert (answers[0]["compared"], answers[0]["not_compared"]) == (len(CASES), 0)
    stored = server.client("infer", MODEL, answers[0]["id"], {})[1]["report"]["entropy"]
    assert uncertainties[0] == pytest.approx(1.0 if stored is None else stored)


def wait_for_training(server) -> dict:
    for _ in range(600):
        status = server.client("train_status")
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(1)
    raise AssertionError("the training does not end")


def test_too_few_labels_are_said(server):
    server.client("train_start", MODEL, {"max_epochs": 1})
    status = wait_for_training(server)
    assert status["status"] == "ERROR"
    assert "0 final label(s): save two or more" in "".join(status["details"])


def test_saved_labels_train_the_copy_and_are_tracked(server, tiny, tmp_path):
    for number, name in enumerate(CASES[:3]):
        saved = server.client("save_label", name, str(server.folder / f"truth/case_{number}_Label.nii.gz"), "final")
        assert saved["label"] == name
    assert json.loads(server.rest("/info/")[1])["datastore"]["completed"] == 3
    before = server.weights()
    given = tiny[1].read_bytes()
    _, first = server.client("infer", MODEL, CASES[3], {})
    server.client("train_start", MODEL, {"max_epochs": 1, "learning_rate": 0.01})
    status = wait_for_training(server)
    assert status["status"] == "DONE", server.log()[-6000:]
    after = server.weights()
    assert after.keys() == before.keys()
    assert not all(torch.equal(after[key], before[key]) for key in after)
    assert tiny[1].read_bytes() == given
    path, second = server.client("infer", MODEL, CASES[3], {})
    weights = server.app / "model" / MODEL / "models/model.pt"
    report, expected = run_bundle(MODEL, tmp_path, server.studies / f"{CASES[3]}.nii.gz", tiny, weights)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), np.asarray(nib.load(expected).dataobj))
    assert second["report"] == json.loads(report.read_text()) != first["report"]
    answer = json.loads(server.rest("/activelearning/uncertainty", {})[1])
    assert (answer["id"], answer["compared"]) == (CASES[3], 1)  # the only one without a label
    with sqlite3.connect(server.app / "mlruns.db") as store:
        assert store.execute("select name, status from runs").fetchall() == [("fine-tuning, 2 labels", "FINISHED")]
        assert ("loss",) in store.execute("select distinct key from metrics").fetchall()


def test_a_translation_is_an_image_and_equals_the_bundle_s(server, others, tmp_path):
    info = server.client("info")["models"]["translation"]
    assert (info["type"], info["labels"]) == ("others", {})
    path, _ = server.client("infer", "translation", CASES[0], {})
    scan = server.studies / f"{CASES[0]}.nii.gz"
    (expected,) = run_bundle("translation", tmp_path, scan, others["translation"])
    image, expected = nib.load(path), nib.load(expected)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))
    assert len(np.unique(np.asarray(image.dataobj))) > 100


def test_a_koos_grade_is_the_bundle_s_by_the_saved_label(server, others, tmp_path):
    assert server.client("info")["models"]["koos-classifier"]["type"] == "classification"
    label = server.folder / "truth/case_1_Label.nii.gz"
    server.client("save_label", CASES[1], str(label), "final")
    path, answer = server.client("infer", "koos-classifier", CASES[1], {})
    assert path is None
    scan = server.studies / f"{CASES[1]}.nii.gz"
    written = run_bundle("koos-classifier", tmp_path, scan, others["koos-classifier"], mask=label)
    expected = json.loads(next(file for file in written if file.name.endswith("_koos.json")).read_text())
    assert (answer["grade"], answer["flags"]) == (expected["grade"], expected["flags"])
    scores = {entry["label"]: entry["score"] for entry in answer["prediction"]}
    assert list(scores) == ["koos 1", "koos 2", "koos 3", "koos 4"]
    assert list(scores.values()) == pytest.approx(list(expected["probabilities"].values()), abs=1e-6)


def test_a_scan_without_a_label_is_segmented_before_it_is_graded(server):
    _, answer = server.client("infer", "koos-classifier", CASES[3], {})
    assert answer["flags"] == ["empty mask"] or sum(answer["probabilities"]) == pytest.approx(1)


def test_only_this_machine_s_programs_are_answered(server):
    assert server.rest("/info/", headers={"Host": "evil.example"})[0] == 400
    for origin in ("http://evil.example", "null"):
        status, _, headers = server.rest("/info/", headers={"Origin": origin})
        assert status == 403
        assert "Access-Control-Allow-Origin" not in headers
    assert server.rest("/info/", headers={"Origin": server.url})[0] == 200
    for address, method in [("/session/x", "GET"), ("/proxy/dicom/wado/x", "GET"), (f"/model/{MODEL}", "DELETE")]:
        assert server.rest(address, method=method)[:2] == (404, "not served"), address
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True).stdout
    if listening:  # not every machine has the command
        assert f"127.0.0.1:{server.port}" in listening
        assert f"0.0.0.0:{server.port}" not in listening


def test_paths_of_a_request_stay_in_the_studies(server, tmp_path):
    outside = tmp_path / "outside.nii.gz"
    shutil.copy(server.studies / f"{CASES[0]}.nii.gz", outside)
    for image in (str(outside), "../truth/case_0_Label", "/etc/passwd"):
        status, text, _ = server.rest(f"/infer/{MODEL}?image={urllib.request.quote(image, safe='')}", {})
        assert (status, "image" in text) == (400, True), image
    label = str(server.folder / "truth/case_0_Label.nii.gz")
    script = CLIENT.replace("print(", "pass; print(")
    call = json.dumps(["save_label", [CASES[0], label, "../../stolen"]]) + "\n"
    result = subprocess.run([str(server.python), "-c", script, server.url], input=call, capture_output=True, text=True)
    assert "give a name without slashes" in result.stderr
    assert not (server.folder / "stolen").exists()


def test_a_faulty_scan_is_named_and_the_server_goes_on(server):
    faulty = server.studies / "faulty.nii.gz"
    faulty.write_bytes(b"no scan")
    try:
        for _ in range(40):  # until the server has seen the file
            status, text, _ = server.rest(f"/infer/{MODEL}?image=faulty", {})
            if "not in the studies" not in text:
                break
            time.sleep(0.5)
        assert status == 400
        assert "faulty.nii.gz" in text
    finally:
        faulty.unlink()
    assert server.rest("/info/")[0] == 200
