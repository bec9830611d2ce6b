"""Trained networks in MLflow's model registry."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.models import infer_signature
from torch import nn

from crossmoda.engines.weights import load_weights

VARIABLE = "MLFLOW_TRACKING_URI"


def register_model(
    tracking_uri: str, run_id: str, network: nn.Module, weights: str | Path, window: Sequence[int], name: str
) -> str:
    """Log a trained network to an MLflow run and register it as a new version, with its signature.

    It is exported by `torch.export` (MLflow's "pt2"), so that loading it runs no pickled code:
    `mlflow.pytorch.load_model("models:/<name>/<version>")`. The exported graph takes windows of one shape, as a sliding
    window feeds them, one at a time; it holds the network alone, without the bundle's transforms.

    Args:
        tracking_uri: of the run; MLFLOW_TRACKING_URI goes before it.
        run_id: the run, which must not have ended.
        network: as the bundle's `network_def` builds it; stays as it is.
        weights: its checkpoint, a plain state dict.
        window: shape of an input, (1, C, X, Y[, Z]).
        name: of the registered model; made if it is new.

    Returns:
        The version's number.

    Raises:
        InputError: if the weights are missing or of another network.
    """
    model = copy.deepcopy(network).cpu().eval().to(memory_format=torch.contiguous_format)
    load_weights(model, weights)
    example = np.zeros(tuple(window), dtype=np.float32)
    with torch.no_grad():
        signature = infer_signature(example, model(torch.from_numpy(example)).numpy())
    with active_store(os.environ.get(VARIABLE) or tracking_uri), mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            serialization_format="pt2",
            input_example=example,
            signature=signature,
            registered_model_name=name,
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
        )
    return str(info.registered_model_version)


@contextmanager
def active_store(tracking_uri: str) -> Iterator[None]:
    """Points MLflow's functions that know no store of their own to one, and leaves no trace.

    MLflow's `set_tracking_uri` alone also sets MLFLOW_TRACKING_URI, so that whatever this process starts later would
    track there.
    """
    before, variable = mlflow.get_tracking_uri(), os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(VARIABLE, None)
        if variable is not None:
            os.environ[VARIABLE] = variable
