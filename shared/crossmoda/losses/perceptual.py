"""Perceptual loss on VGG19's features."""

from __future__ import annotations

import importlib.util
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import InputError, exit_on_input_error

logger = logging.getLogger(__name__)

# VGG19 (Simonyan 2015, configuration E) up to relu5_1, the first 30 layers of torchvision's `features`: channels of the
# 13 convolutions with ReLU, and "pool".
VGG19_LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision, of images in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    r"""Sum of the mean squared differences of two images' VGG19 features (Han 2022, code).

    $L(a, b) = \sum_l \mathrm{mean}((\phi_l(a) - \phi_l(b))^2)$ over the 13 ReLUs of the first 30 layers, with average
    instead of max pooling. Images in [-1, 1] are mapped to [0, 1] and normalised as ImageNet's.

    MONAI's `PerceptualLoss` wants torchvision or lpips, takes no file of weights, and has neither VGG19 nor average
    pools nor all of its ReLUs. The weights here are buffers that no state dict holds: they are not trained, and
    a checkpoint need not carry them.

    Args:
        state: torchvision's state dict of VGG19 (`features.0.weight`, ...); what lies deeper is not looked at.

    Raises:
        KeyError: if a convolution is missing.
        ValueError: if one has another shape.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        for name, shape in vgg19_shapes().items():
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {shape}")
            weight = state[name].detach().float().clone()
            self.register_buffer(name.replace(".", "_"), weight, persistent=False)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 3, H, W) in [-1, 1], H and W >= 16 -> the 13 feature maps, each after its ReLU."""
        x = (images / 2 + 0.5 - self.mean) / self.std
        maps, index = [], 0
        for layer in VGG19_LAYERS:
            if layer == "pool":
                x, index = F.avg_pool2d(x, 2), index + 1
                continue
            weight, bias = (getattr(self, f"features_{index}_{part}") for part in ("weight", "bias"))
            x, index = F.relu(F.conv2d(x, weight, bias, padding=1)), index + 2
            maps.append(x)
        return maps

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> scalar; no gradient goes to the reference."""
        with torch.no_grad():
            references = self.features(reference)
        pairs = zip(self.features(image), references, strict=True)
        return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()


def vgg19_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the convolutions' weights and biases up to relu5_1, as torchvision has them."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, index = 3, 0
    for layer in VGG19_LAYERS:
        if layer == "pool":
            index += 1
            continue
        shapes[f"features.{index}.weight"] = (layer, channels, 3, 3)
        shapes[f"features.{index}.bias"] = (layer,)
        channels, index = layer, index + 2
    return shapes


def load_perceptual_loss(weights: str | Path | None = None, enabled: bool = True) -> PerceptualLoss | None:
    """The perceptual loss with ImageNet's weights, if there are any.

    Args:
        weights: torchvision's VGG19 state dict, e.g. vgg19-dcbb9e9d.pth; None takes an installed torchvision's, which
            downloads them if they are not in its cache.
        enabled: False loads nothing.

    Returns:
        None, with a warning, if no weights can be had: the term is then off.

    Raises:
        InputError: if the file given is missing or holds something else.
    """
    if not enabled:
        return None
    if weights is not None:
        return _from_file(Path(weights).absolute())
    reason = "torchvision is not installed"
    if importlib.util.find_spec("torchvision") is not None:
        try:
            return PerceptualLoss(_torchvision_state())
        except (OSError, RuntimeError) as error:  # no network, or torchvision does not fit this torch
            reason = f"torchvision gave no VGG19 weights: {error}"
    logger.warning(
        "The perceptual loss is OFF (%s). To train with it give --perceptual_weights PATH, torchvision's"
        " vgg19-dcbb9e9d.pth; --lambda_perceptual 0 says that it is to be off.",
        reason,
    )
    return None


def _torchvision_state() -> Mapping[str, torch.Tensor]:
    from torchvision.models import VGG19_Weights

    return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)


def _from_file(path: Path) -> PerceptualLoss:
    mend = "give torchvision's vgg19-dcbb9e9d.pth, or --lambda_perceptual 0 for none"
    if not path.is_file():
        raise InputError(f"{path} is missing: {mend}")
    try:
        return PerceptualLoss(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} can't be read ({str(error).splitlines()[0]}): {mend}") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not hold VGG19's weights ({error}): {mend}") from None


load_perceptual_loss_or_exit = exit_on_input_error(load_perceptual_loss)
