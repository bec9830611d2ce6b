"""nnU-Net's U-Net: MONAI's DynUNet with outputs at their own resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch
from monai.networks.nets import DynUNet
from torch import nn


class DeepSupervisionDynUNet(DynUNet):
    """MONAI's `DynUNet`, whose deep supervision returns each head's logits at the head's own resolution.

    `DynUNet` enlarges all heads to the full size and stacks them, and the loss then looks at several full-size volumes;
    nnU-Net (Isensee 2021) shrinks the label instead. `DynUNet`'s weights load here. Its recursive `skip_layers`, which
    hold the same blocks once more and keep the heads' outputs between iterations, are gone: with them, TorchScript
    (torch 2.13) refuses the network.

    Decoder block i of `DynUNet`, as of nnU-Net's first version, has the kernel of encoder stage i + 1; nnU-Net's second
    version gives it that of stage i, which `decoder_kernel_size` allows. Convolutions have no bias, nnU-Net's have: the
    instance norm that follows takes it away again.

    Each axis of the input must be divisible by the product of its strides.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        strides: of each encoder stage's first convolution, finest stage first; three values each.
        kernel_size: of each encoder stage.
        upsample_kernel_size: kernels and strides of the transposed convolutions; the strides without the first stage's.
        filters: channels of each stage.
        decoder_kernel_size: of each decoder block, finest first; None takes `kernel_size[1:]`.
        num_heads: lower outputs in training beside the full one, from the second finest decoder block on; at most
            two less than there are stages. nnU-Net's lowest output has loss weight zero, so that it needs no head.
        norm_name: normalisation, as MONAI names it.
        spatial_dims: 3; 2D networks have kernels and strides with a 1 for z, and patches of one slice.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        strides: Sequence[Sequence[int]],
        kernel_size: Sequence[Sequence[int]],
        upsample_kernel_size: Sequence[Sequence[int]],
        filters: Sequence[int],
        decoder_kernel_size: Sequence[Sequence[int]] | None = None,
        num_heads: int = 1,
        norm_name: tuple | str = ("INSTANCE", {"affine": True}),
        spatial_dims: int = 3,
    ) -> None:
        lengths = [len(kernel_size), len(upsample_kernel_size) + 1, len(filters)]
        if set(lengths) != {len(strides)}:
            raise ValueError(
                f"{len(strides)} strides need as many kernels and filters, and one upsample kernel less; got"
                f" {lengths[0]}, {lengths[2]} and {lengths[1] - 1}"
            )
        if decoder_kernel_size is not None and len(decoder_kernel_size) != len(strides) - 1:
            raise ValueError(f"{len(strides) - 1} decoder kernels are needed, got {len(decoder_kernel_size)}")
        self.decoder_kernel_size = kernel_size[1:] if decoder_kernel_size is None else decoder_kernel_size
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size,
            strides,
            upsample_kernel_size,
            filters=filters,
            norm_name=norm_name,
            deep_supervision=num_heads > 0,
            deep_supr_num=max(num_heads, 1),
        )
        del self.skip_layers, self.heads
        if num_heads == 0:
            self.deep_supervision_heads = nn.ModuleList()
        self.register_load_state_dict_pre_hook(_drop_skip_layers)

    def get_upsamples(self) -> nn.ModuleList:
        """The decoder's blocks, coarsest first (`DynUNet` calls this while it is built)."""
        encoder_kernel_size = self.kernel_size
        self.kernel_size = [encoder_kernel_size[0], *self.decoder_kernel_size]
        blocks = super().get_upsamples()
        self.kernel_size = encoder_kernel_size
        return blocks

    def forward(self, x: torch.Tensor) -> Union[torch.Tensor, list[torch.Tensor]]:  # noqa: UP007 - for TorchScript
        """Computes the logits.

        Args:
            x: images (B, in_channels, X, Y, Z).

        Returns:
            Logits (B, out_channels, X, Y, Z); in training a list of them and of the heads', finest first.
        """
        x = self.input_block(x)
        skips = [x]
        for down in self.downsamples:
            x = down(x)
            skips.append(x)
        x = self.bottleneck(x)
        stages: list[torch.Tensor] = []
        for up in self.upsamples:
            x = up(x, skips.pop())
            stages.insert(0, x)
        logits = self.output_block(x)
        if not self.training:
            return logits
        outputs = [logits]
        for i, head in enumerate(self.deep_supervision_heads):
            outputs.append(head(stages[i + 1]))
        return outputs


def _drop_skip_layers(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Leaves out of `DynUNet`'s weights what it holds twice."""
    for name in [name for name in state_dict if name.startswith(f"{prefix}skip_layers.")]:
        del state_dict[name]
