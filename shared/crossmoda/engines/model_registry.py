"""Trained networks in MLflow's model registry."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.models import infer_signature
from torch import nn

from crossmoda.engines.weights import load_weights


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
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
    try:
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pytorch.log_model(
                model,
                name="model",
                serialization_format="pt2",
                input_example=example,
                signature=signature,
                registered_model_name=name,
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
            )
    finally:
        mlflow.set_tracking_uri(before)
    return str(info.registered_model_version)
