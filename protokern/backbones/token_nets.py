"""Vision transformers of torchvision as backbones: the tokens of the patches as a map, each at its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.backbones.stages import FeatureStage, choose_earlier, choose_stage, weigh
from protokern.kernels.salience import lengths_of


class TokenNet(nn.Module):
    """The blocks of a vision transformer, from normalised images (B, C', Y, X) to maps (B, C, Y / patch, X / patch).

    Each block is a stage, and all have one size. The class token takes part in the attention and is not in the map. The
    position embeddings are resized to the grid of the images, so any size works whose sides are multiples of the
    patch's. Names of weights are those of torchvision.

    Args:
        net: a `VisionTransformer` of torchvision, whose parts are taken over.

    Attributes:
        patch_size: side of a patch in pixels.
        made_for: (Y, X), pixels, of the images whose grid the position embeddings are for.
        salience_stage: index of the block whose lengths weigh the map; None: none.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.patch_size: int = net.patch_size
        self.salience_stage: int | None = None
        self.made_for: tuple[int, int] = (net.image_size, net.image_size)
        self.conv_proj: nn.Conv2d = net.conv_proj
        self.class_token: nn.Parameter = net.class_token  # (1, 1, C)
        self.encoder: Any = net.encoder

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] % self.patch_size or images.shape[3] % self.patch_size:
            raise ValueError(f"its images have sides that are multiples of {self.patch_size} pixels")
        patches = self.conv_proj(images)  # (B, C, H, W)
        rows, columns = patches.shape[2:]
        tokens = torch.cat(
            [self.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = self.encoder.dropout(tokens + self._positions(rows, columns))  # (B, 1 + H W, C)
        lengths = None
        for number, block in enumerate(self.encoder.layers):
            tokens = block(tokens)
            if number == self.salience_stage:
                lengths = lengths_of(_as_map(tokens, rows, columns))
        maps = _as_map(self.encoder.ln(tokens), rows, columns)
        return maps if lengths is None else weigh(maps, lengths)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embeddings (1, 1 + H W, C) of a grid; resized as timm does, if it is not that of the weights."""
        own: Tensor = self.encoder.pos_embedding
        side = round((own.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return own
        grid = own[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (1, C, side, side)
        resized = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([own[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def end_after(self, stage: int, *, name: str) -> int | None:
        """Remove the blocks after one, in place, and the final norm, which is for the last one.

        Returns:
            The index of the block from 0; None: it is the last one, and nothing was removed.

        Raises:
            ConfigError: backbone `name` has no such block.
        """
        index = choose_stage(stage, self._stages(), name=name)
        if index == len(self.encoder.layers) - 1:
            return None
        self.encoder.layers = self.encoder.layers[: index + 1]
        self.encoder.ln = nn.Identity()
        return index

    def weigh_by(self, stage: int, *, name: str) -> int:
        """Weigh the map by the lengths after an earlier block; return its index.

        Raises:
            ConfigError: backbone `name` has no such block before the last one.
        """
        self.salience_stage = choose_earlier(stage, self._stages(), name=name)
        return self.salience_stage

    def _stages(self) -> Sequence[FeatureStage]:
        return [FeatureStage(self.patch_size, self.conv_proj.out_channels)] * len(self.encoder.layers)


def _as_map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The patch tokens of (B, 1 + H W, C) as (B, C, H, W)."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
