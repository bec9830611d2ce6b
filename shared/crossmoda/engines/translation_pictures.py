"""Pictures of translations for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch.utils.data import Dataset, default_collate

from crossmoda.engines.objectives import TranslationObjective


class TranslationPictures:
    """Trainer handler: writes a PNG of fixed validation slices every few epochs and after the last one.

    One row a slice; columns as the objective's `preview` names them, for CycleGAN ceT1 | pseudo-hrT2 |
    reconstructed ceT1 | a real hrT2. Slices (X, Y) in RAS are shown as radiologists see them: anterior up, the
    patient's left on the right.

    Args:
        objective: the one being trained.
        dataset: validation slices, items as in training batches.
        directory: the files go to `<directory>/epoch_0001.png` and so on.
        indices: which items of the dataset to show.
        interval: epochs between pictures.
        zoom: pixels a slice pixel.
    """

    def __init__(
        self,
        objective: TranslationObjective,
        dataset: Dataset,
        directory: str | Path,
        indices: Sequence[int] = (0, 1, 2, 3),
        interval: int = 5,
        zoom: int = 2,
    ) -> None:
        self.objective = objective
        self.dataset = dataset
        self.directory = Path(directory)
        self.indices = indices
        self.interval = interval
        self.zoom = zoom

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        items = [self.dataset[i] for i in self.indices if i < len(self.dataset)]
        device = next(self.objective.parameters()).device
        batch = {name: value.to(device) for name, value in default_collate(items).items()}
        training = self.objective.training
        self.objective.eval()
        with torch.no_grad():
            columns = self.objective.preview(batch)
        self.objective.train(training)
        self.directory.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(picture_grid(list(columns.values())))
        picture = picture.resize((picture.width * self.zoom, picture.height * self.zoom), Image.Resampling.NEAREST)
        picture.save(self.directory / f"epoch_{epoch:04d}.png")


def picture_grid(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """Columns of slices (B, 1, X, Y) in [-1, 1] -> one uint8 image, a row a slice, with a 2-pixel gap."""
    rows = []
    for slices in zip(*columns, strict=True):
        tiles = [np.pad(_radiological(s[0]), 1, constant_values=64) for s in slices]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def _radiological(slice_ras: torch.Tensor) -> np.ndarray:
    """(X, Y) growing to the patient's right and front -> rows from front to back, columns from right to left."""
    grey = ((slice_ras.float().cpu().numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return grey.T[::-1, ::-1]
