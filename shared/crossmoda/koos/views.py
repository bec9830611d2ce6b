"""What MSF-Koos-Net sees of the cases: both modalities as one item, and views that are computed once."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, RandomizableTrait, Transform
from torch.utils.data import Dataset, Sampler

from crossmoda.engines.checkpoint import save_atomically
from crossmoda.koos.items import MODALITIES, Item
from crossmoda.losses import UNGRADED
from crossmoda.networks import MSFKoosNet


class StackModalitiesd(Transform):
    """Images and mask of a case -> one item {case, image, label} that MONAI's engines can take.

    `image` is (M, 2, X, Y, Z): for each modality its image and the mask. `label` is the grade - 1, a class index, or
    `UNGRADED`. No transform of MONAI stacks items along a new axis.

    Args:
        modalities: keys of the images, each (1, X, Y, Z); those that a case lacks are left out.
        mask_key: key of the mask, (1, X, Y, Z).
    """

    def __init__(self, modalities: Sequence[str] = MODALITIES, mask_key: str = "mask") -> None:
        self.modalities = tuple(modalities)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        """Stacks."""
        images = [data[name] for name in self.modalities if name in data]
        stacked = torch.stack([torch.cat([image, data[self.mask_key]]) for image in images])
        label = data["koos"] - 1 if "koos" in data else UNGRADED
        return {"case": data["case"], "image": torch.Tensor(stacked.float()), "label": label}


class FixedViews(Dataset):
    """Each case in a fixed number of randomly augmented views, of which every access draws one.

    The views are made once, when they are first asked for, and so are the features that a frozen encoder makes of them,
    kept in memory as float16. They depend on the seed, the case and the view's number alone, so that the folds of a
    cross-validation share the files in `folder`. MONAI's caching data sets run the random transforms, and with them the
    encoder, at every access, and its `PersistentDataset` unpickles.

    Args:
        data: items of `koos_items`.
        transform: makes items of `StackModalitiesd`.
        views: of each case; 1 for a transform without random steps.
        seed: of the augmentation.
        network: encodes the views; None keeps them as images.
        folder: keeps views on disk between runs; None does not.
        settings: all that the transform depends on beside the cases' files; files of other settings are passed over.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Compose,
        views: int,
        seed: int = 0,
        network: MSFKoosNet | None = None,
        folder: str | Path | None = None,
        settings: Sequence[Any] = (),
    ) -> None:
        self.data = data
        self.transform = transform
        self.views = views
        self.seed = seed
        self.network = network
        self.folder = Path(folder) if folder else None
        self.settings = settings
        self._views: dict[int, torch.Tensor] = {}  # of the cases, (views, M, C, X, Y, Z)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One view of a case: {case, image (M, C, X, Y, Z) float32, label}; drawn from torch's global generator."""
        item = self.data[index]
        if index not in self._views:
            self._views[index] = self._load_or_make(item)
        view = int(torch.randint(self.views, ())) if self.views > 1 else 0
        label = item["koos"] - 1 if "koos" in item else UNGRADED
        return {"case": item["case"], "image": self._views[index][view].float(), "label": label}

    def _load_or_make(self, item: Item) -> torch.Tensor:
        if self.folder is None:
            return self._make(item)
        path = self.folder / f"{item['case']}_{self._digest(item)}.pt"
        if not path.is_file():
            save_atomically(self._make(item), path)
        return torch.load(path, weights_only=True)

    def _make(self, item: Item) -> torch.Tensor:
        first_random = self.transform.get_index_of_first(lambda step: isinstance(step, RandomizableTrait))
        end = len(self.transform) if first_random is None else first_random
        fixed = self.transform(dict(item), end=end)
        images = []
        for view in range(self.views):
            self.transform.set_random_state(seed=zlib.crc32(f"{self.seed} {item['case']} {view}".encode()))
            images.append(self._encode(self.transform(deepcopy(fixed), start=end)["image"]).half().cpu())
        return torch.stack(images)

    @torch.no_grad()
    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        if self.network is None:
            return image
        return self.network.encode(image.to(next(self.network.parameters()).device))

    def _digest(self, item: Item) -> str:
        files = [Path(item[key]) for key in ("mask", *MODALITIES) if key in item]
        state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.sha256(repr((state, self.views, self.seed, list(self.settings))).encode())
        if self.network is not None:
            for tensor in self.network.encoder.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def koos_dataset(
    data: Sequence[Item],
    transform: Compose,
    views: int | None = None,
    cache_rate: float = 1.0,
    progress: bool = True,
    **settings: Any,
) -> FixedViews | CacheDataset:
    """Cases that are augmented anew at every access, or in fixed views.

    Args:
        data: items of `koos_items`.
        transform: makes items of `StackModalitiesd`.
        views: see `FixedViews`; None makes a `CacheDataset`.
        cache_rate: of the `CacheDataset`.
        progress: of the `CacheDataset`.
        settings: further arguments of `FixedViews`.
    """
    if views is None:
        return CacheDataset(data, transform, cache_rate=cache_rate, progress=progress)
    return FixedViews(data, transform, views, **settings)


class GradeSampler(Sampler[int]):
    """Batches with the same number of cases of each grade; within a grade every case once before any comes again.

    An epoch is a fixed number of batches. For a `DataLoader` whose batch size is `batch_size`. The processes of a
    distributed training share out one draw, from torch's global generator, which must be in the same state in all.

    Args:
        items: with `koos`.
        per_grade: cases of each grade in a batch.
        batches: an epoch, of each process.
    """

    def __init__(self, items: Sequence[Item], per_grade: int, batches: int) -> None:
        grades = sorted({item["koos"] for item in items})
        self.cases = [[index for index, item in enumerate(items) if item["koos"] == grade] for grade in grades]
        self.per_grade = per_grade
        self.batches = batches
        self.batch_size = per_grade * len(grades)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        batches = self.batches * idist.get_world_size()
        count = batches * self.per_grade
        draws = []
        for cases in self.cases:
            order = torch.cat([torch.randperm(len(cases)) for _ in range(-(-count // len(cases)))])[:count]
            draws.append(torch.tensor(cases)[order].reshape(batches, self.per_grade))
        indices = torch.cat(draws, dim=1)[idist.get_rank() :: idist.get_world_size()]
        return iter(indices.flatten().tolist())
