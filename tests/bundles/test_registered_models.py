"""`--registered_model NAME` with a bundle's own mlflow.json: the trained network is in MLflow's registry."""

from __future__ import annotations

import mlflow
import pytest
import segmentation3d_bundle as volumes
import segmentation_bundle as flat
import torch
import translation_bundle as translation
from mlflow import MlflowClient
from monai.bundle import run

from crossmoda.engines.model_registry import active_store

SLICES = {key: value for key, value in volumes.SLICES.items() if key != "spacing"}


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    return flat.write_dataset(tmp_path_factory.mktemp("data"))


def segmentation_2d5(data_list, folder):
    return flat.CONFIGS, ["train"], flat.train_overrides(data_list, folder), (1, 1, 32, 32, 8)


def nnunet_3d(data_list, folder):
    return volumes.CONFIGS, ["train"], volumes.train_overrides(data_list, folder), (1, 1, 32, 32, 8)


def nnunet_2d(data_list, folder):
    values = volumes.train_overrides(data_list, folder, **SLICES)
    return volumes.CONFIGS, ["train", "methods/nnunet_2d"], values, (1, 1, 32, 32, 1)


def cyclegan(_, folder):
    (folder / "data").mkdir()
    data_list = translation.write_data(folder / "data")
    values = translation.TINY | {
        "data_list": str(data_list),
        "output_dir": str(folder),
        "ckpt_dir": str(folder / "model"),
        "max_epochs": 1,
    }
    return translation.CONFIGS, ["train", "methods/cyclegan", "phantom"], values, (1, 1, 24, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [segmentation_2d5, nnunet_3d, nnunet_2d, cyclegan], ids=lambda method: method.__name__
)
def test_the_trained_network_is_in_the_registry(method, data_list, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    configs, names, values, window = method(data_list, tmp_path)
    files = [str(configs / f"{name}.yaml") for name in names]
    tracking = {"tracking": str(configs / "mlflow.json"), "registered_model": "ours"}
    run(config_file=files, logging_file=False, **values, **tracking)
    store = f"sqlite:///{tmp_path}/mlruns.db"
    client = MlflowClient(store)
    (version,) = client.search_model_versions("name = 'ours'")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    with active_store(store):
        loaded = mlflow.pytorch.load_model("models:/ours/1")
    weights = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    exported = dict(loaded.state_dict())
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    with torch.no_grad():
        assert loaded(torch.zeros(window)).shape[-2:] == window[-2:]
