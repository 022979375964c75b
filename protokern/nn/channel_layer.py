"""Prototypes that are channels: the distance of a patch is how little the softmax over the channels gives to one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protokern.kernels import MinDistance, PrototypePool
from protokern.kernels.geometry import compute_dtype
from protokern.nn.patch_layer import Activation

# Numbers of a map that are held at once.
_MAP_BUDGET = 1 << 22


def channel_pool(features: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image and channel the smallest -log softmax over the cells, and the cell where it is, (B, P) each.

    Differentiable; the gradient flows through that one cell. No softmax of the whole map is kept: its logarithm at a
    cell is the entry less the log of the sum over the channels, one number a cell.

    Args:
        features: (B, D, H, W).
        channels: (P,) int64, of 0 .. D - 1.

    Returns:
        The distance, >= 0, in float64 for float64 and else in float32; and the flat index h * W + w int64, the lowest
        one on a tie.
    """
    total = _log_total(features).flatten(1)  # (B, N)
    wide = features.to(total.dtype).flatten(2)  # (B, D, N)
    with torch.no_grad():
        # A program that is traced has one piece, because their number would depend on the batch.
        step = len(channels) if torch.compiler.is_compiling() else _MAP_BUDGET // max(1, total.numel())
        pieces = channels.split(max(1, step))
        patch = torch.cat([(total[:, None] - wide[:, some]).argmin(dim=2) for some in pieces], dim=1)
    return _at(total, wide, channels, patch[..., None])[..., 0], patch


def _log_total(features: Tensor) -> Tensor:
    """The log of the sum over the channels of exp, (B, H, W).

    Cell by cell in rows, so that the bits do not depend on the batch.
    """
    rows = features.to(compute_dtype(features.dtype)).permute(0, 2, 3, 1).contiguous()
    return rows.logsumexp(dim=3)


def _at(total: Tensor, wide: Tensor, channels: Tensor, patch: Tensor) -> Tensor:
    """total - feature at cells (B, P, m), for total (B, N) and features (B, D, N)."""
    image = torch.arange(wide.shape[0], device=wide.device)[:, None, None]
    return total[image, patch] - wide[image, channels[:, None], patch]


class ChannelLayer(nn.Module):
    """Prototypes that are channels of the features; a `PatchLayer`.

    At a cell the channels share 1 by a softmax. The share of a channel is its similarity there, and the distance is its
    negative logarithm, which keeps small shares apart. Channels that were dropped still take part in the softmax, so
    that the others stay as they were.

    Args:
        num_channels: D, channels of the features.

    Attributes:
        channels: buffer (P,) int64, the channel that each prototype is.

    Raises:
        ValueError: `num_channels` is below 1.

    Source: Nauta et al. 2023 (PIP-Net), section 3.
    """

    channels: Tensor
    _number: Tensor

    activation: Activation = "exp"
    norm_as_weight: bool = False
    prototype_size = (1, 1)
    vectors = None
    shows_distance = False
    is_projected = False

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"num_channels: must be at least 1; got {num_channels}. Give a positive number.")
        self.prototype_dim = num_channels
        self.register_buffer("channels", torch.arange(num_channels))
        self.register_buffer("_number", torch.empty(0), persistent=False)  # follows the model's device and dtype

    @property
    def num_prototypes(self) -> int:
        """P."""
        return len(self.channels)

    @property
    def device(self) -> torch.device:
        """Where the layer is."""
        return self._number.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self._number.dtype

    def forward(self, features: Tensor) -> PrototypePool:
        """Presence, its negative logarithm, and the patch where it is largest, each (B, P), of (B, D, H, W)."""
        distance, patch = channel_pool(features, self.channels)
        return PrototypePool(self.activate(distance), distance, patch)

    def min_distance(
        self, features: Tensor, prototype_index: Tensor | None = None, *, exact: bool = False
    ) -> MinDistance:
        """Smallest distance and nearest patch, each (B, P'); always in full precision."""
        return MinDistance(*channel_pool(features, self._chosen(prototype_index)))

    def nearest_distances(
        self, features: Tensor, k: int, prototype_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances of the k nearest patches, ascending, and where they are, (B, P', k) each."""
        value, patch = self.distance_map(features, prototype_index).flatten(2).sort(dim=2, stable=True)
        return value[..., :k], patch[..., :k]

    def distance_map(self, features: Tensor, prototype_index: Tensor | None = None) -> Tensor:
        """Distances (B, P', H, W) at every patch of features (B, D, H, W)."""
        total = _log_total(features)
        return total[:, None] - features.to(total.dtype)[:, self._chosen(prototype_index)]

    def distance_at(self, features: Tensor, patch: Tensor, prototype_index: Tensor | None = None) -> Tensor:
        """Distances at given patches (B, P') or (B, P', m) int64, in their shape."""
        total = _log_total(features).flatten(1)
        cells = patch if patch.ndim == 3 else patch[..., None]
        found = _at(total, features.to(total.dtype).flatten(2), self._chosen(prototype_index), cells)
        return found.view(patch.shape)

    def activate(self, distance: Tensor) -> Tensor:
        """exp(-distance), the share of the channel."""
        return (-distance).exp()

    def is_at_copy(self, distance: Tensor, prototype: int) -> bool:
        """False: a channel is no vector that a patch could be a copy of."""
        return False

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop all prototypes but those in `index` (P',) int64; their channels stay in the softmax."""
        self.channels = self.channels[index].clone()

    def _chosen(self, prototype_index: Tensor | None) -> Tensor:
        return self.channels if prototype_index is None else self.channels[prototype_index]

    def extra_repr(self) -> str:
        """Sizes, for `print(layer)`."""
        return f"num_prototypes={self.num_prototypes}, num_channels={self.prototype_dim}"
