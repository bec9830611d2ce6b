"""Pictures: when, where and which way up."""

import numpy as np
import torch
from ignite.engine import Engine
from PIL import Image
from torch import nn

from crossmoda.engines import TranslationPictures
from crossmoda.engines.translation_pictures import picture_grid


class Preview(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def preview(self, batch):
        assert not self.training
        return {"source": batch["source"], "negative": -batch["source"]}


def test_writes_every_interval_and_at_the_end(tmp_path):
    dataset = [{"source": torch.zeros(1, 6, 4)} for _ in range(3)]
    objective = Preview()
    engine = Engine(lambda *_: None)
    TranslationPictures(objective, dataset, tmp_path, indices=(0, 2, 9), interval=2, zoom=3).attach(engine)
    engine.run([0], max_epochs=5)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]
    # Two slices of 6 x 4 with a border of 1, two columns, three times enlarged.
    assert Image.open(tmp_path / "epoch_0005.png").size == (2 * 8 * 3, 2 * 6 * 3)
    assert objective.training


def test_anterior_is_up_and_the_patients_right_is_on_the_left():
    image = torch.full((1, 1, 6, 4), -1.0)
    image[0, 0, 5, 3] = 1.0  # furthest right and front in RAS
    grid = picture_grid([image])[1:-1, 1:-1]
    assert grid.shape == (4, 6)
    assert np.argwhere(grid == 255).tolist() == [[0, 0]]
