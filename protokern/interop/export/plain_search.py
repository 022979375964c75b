"""The search for the nearest patches as plain operations, which any runtime has.

The fused ops search and measure at once. Here a product of matrices finds a few candidates for every prototype, and
their distances are computed again from differences: the same numbers up to rounding, 0 at an exact copy.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from protokern.kernels.metric import METRIC_TABLE
from protokern.kernels.similarity import activate
from protokern.nn import PrototypeLayer, UnitPrototypeLayer
from protokern.nn.unit_prototypes import unit_vectors

Repair = Literal["topk", "argmin"]
REPAIRS: tuple[Repair, ...] = ("topk", "argmin")
_CANDIDATES = 4  # settle what rounding of the product leaves in doubt


class Patches(NamedTuple):
    """The patches of feature maps, ready to be compared.

    Attributes:
        rows: (B, N, K), one vector a patch, prepared as the prototypes are.
        weight: (B, N), how much each counts; None: all alike.
        is_zero: (B, N), which vectors have no direction; None where that is nothing special.
        grid: (H', W').
    """

    rows: Tensor
    weight: Tensor | None
    is_zero: Tensor | None
    grid: tuple[int, int]


class Nearest(NamedTuple):
    """Similarity, distance and flat index of the nearest patch, (B, P) each."""

    similarity: Tensor
    distance: Tensor
    patch: Tensor


class PlainSearch(nn.Module):
    """What a `PrototypeLayer` computes, without the ops of this package; nothing in it learns.

    Args:
        layer: whose prototypes and settings are copied.
        repair: "topk": the distances of four candidates a prototype are computed again; "argmin": that of one, which
            takes less time and memory, and may choose the other one of two patches that are equally near up to
            rounding.
    """

    centre: Tensor
    prototypes: Tensor
    scaled: Tensor
    offset: Tensor
    zero_prototype: Tensor

    def __init__(self, layer: PrototypeLayer, repair: Repair = "topk") -> None:
        super().__init__()
        self.activation, self.epsilon, self.top_k = layer.activation, layer.epsilon, layer.top_k
        self.size, self.norm_as_weight = layer.prototype_size, layer.norm_as_weight
        self.metric, self.repair = METRIC_TABLE[layer.metric], repair
        vectors = layer.prototypes.detach().float()
        if isinstance(layer, UnitPrototypeLayer):
            vectors = unit_vectors(vectors)
        if vectors.ndim == 4:  # in the order of `_windows`
            vectors = vectors.permute(0, 2, 3, 1)
        vectors = vectors.flatten(1)  # (P, K)
        length = vectors.norm(dim=1, keepdim=True)
        is_zero = length == 0
        if self.metric.is_unit:
            vectors = vectors / torch.where(is_zero, 1, length)
        centre = vectors.mean(dim=0) if self.metric.is_centred else torch.zeros_like(vectors[0])
        vectors = (vectors - centre).contiguous()
        # The expanded distance without what is the same for all prototypes: a product of matrices and an offset.
        factor = -2.0 if self.metric.is_centred else -1.0
        offset = vectors.square().sum(dim=1) if self.metric.is_centred else torch.full_like(vectors[:, 0], 0.0)
        if layer.bias is not None:
            offset = offset - layer.bias.detach().float()
        self.register_buffer("centre", centre)
        self.register_buffer("prototypes", vectors)
        self.register_buffer("scaled", factor * vectors)
        self.register_buffer("offset", offset[:, None])  # (P, 1)
        self.register_buffer("zero_prototype", is_zero)  # (P, 1)
        self.has_zero_prototype = bool(is_zero.any())

    def patches(self, features: Tensor) -> Patches:
        """The patches of features (B, D, H, W)."""
        rows, grid = _windows(features, self.size)
        weight = self._weights(features, grid) if self.norm_as_weight else None
        if not self.metric.is_unit:
            return Patches(rows - self.centre if self.metric.is_centred else rows, weight, None, grid)
        length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        is_zero = length == 0
        return Patches(rows / torch.where(is_zero, 1.0, length), weight, is_zero[..., 0], grid)

    def forward(self, features: Tensor) -> Nearest:
        """The nearest patches in features (B, D, H, W)."""
        return self.nearest(self.patches(features))

    def nearest(self, patches: Patches) -> Nearest:
        """The nearest of these patches."""
        rough = self.expanded(patches)  # (B, P, N)
        if self.metric.is_product and self.top_k == 1:  # nothing cancels in a product
            distance = rough.amin(dim=2)
            return Nearest(self.activate(distance), distance, rough.argmin(dim=2))
        candidates, distance = self.candidates(patches, rough)
        smallest = distance.amin(dim=2)
        count = patches.rows.shape[1]
        # Of equal distances the lowest index, as the ops have it.
        patch = torch.where(distance == smallest[..., None], candidates, count).amin(dim=2)
        if self.top_k == 1:
            return Nearest(self.activate(smallest), smallest, patch)
        several = torch.topk(distance, self.top_k, dim=2, largest=False, sorted=True).values
        return Nearest(self.activate(several).mean(dim=2), smallest, patch)

    def expanded(self, patches: Patches) -> Tensor:
        """All distances (B, P, N) by the expanded formula: good enough to find candidates, not to be shown."""
        product = torch.matmul(self.scaled, patches.rows.transpose(1, 2))  # (B, P, N)
        if self.metric.is_centred:
            product = product + patches.rows.square().sum(dim=2)[:, None]
        distance = product + (1 if self.metric.is_unit else self.offset)
        return distance if patches.weight is None else self._weighed(distance, patches.weight[:, None])

    def candidates(self, patches: Patches, rough: Tensor) -> tuple[Tensor, Tensor]:
        """Which patches may be the nearest ones, and how far they are, (B, P, k) each, from distances (B, P, N)."""
        count = patches.rows.shape[1]
        if self.repair == "argmin" and self.top_k == 1:
            index = rough.argmin(dim=2, keepdim=True)
        else:
            wanted = torch.sym_min(self.top_k + _CANDIDATES - 1, count)
            index = torch.topk(rough, wanted, dim=2, largest=False, sorted=True).indices
        return index, self.exact(patches, index)

    def exact(self, patches: Patches, index: Tensor) -> Tensor:
        """Distances (B, P, k) of the patches at `index` (B, P, k), by differences."""
        batch, count = patches.rows.shape[:2]
        first = torch.arange(batch, device=index.device)[:, None, None] * count
        flat = (index + first).flatten()
        near = patches.rows.flatten(0, 1).index_select(0, flat).unflatten(0, (batch, len(self.prototypes), -1))
        distance = self._difference(near, self.prototypes[:, None])
        if patches.is_zero is not None:
            is_zero = patches.is_zero.flatten().index_select(0, flat).view_as(distance)
            distance = torch.where(is_zero, 1.0, distance)
            if self.has_zero_prototype:
                distance = torch.where(self.zero_prototype, 1.0, distance)
        if patches.weight is None:
            return distance
        return self._weighed(distance, patches.weight.flatten().index_select(0, flat).view_as(distance))

    def maps(self, features: Tensor, prototype: Tensor) -> Tensor:
        """Similarity (B, m, H', W') of every patch of features (B, D, H, W) to the prototypes (m,) int64."""
        patches = self.patches(features)
        chosen = self.prototypes.index_select(0, prototype)  # (m, K)
        distance = self._difference(patches.rows[:, None], chosen[:, None])  # (B, m, N)
        if self.metric.is_product:
            distance = distance + self.offset.index_select(0, prototype)
        if patches.is_zero is not None:
            distance = torch.where(patches.is_zero[:, None], 1.0, distance)
            if self.has_zero_prototype:
                distance = torch.where(self.zero_prototype.index_select(0, prototype), 1.0, distance)
        if patches.weight is not None:
            distance = self._weighed(distance, patches.weight[:, None])
        return self.activate(distance).unflatten(2, patches.grid)

    def mean_distance(self, patches: Patches) -> Tensor:
        """Mean over all patches of the distance to every prototype, (B, P), in closed form."""
        rows = patches.rows
        if not self.metric.is_centred:
            weighted = rows if patches.weight is None else rows * patches.weight[..., None]
            mean = torch.matmul(weighted.mean(dim=1), self.scaled.T)
            return mean + 1 if self.metric.is_unit else mean + self.offset[:, 0]
        centre = rows.mean(dim=1, keepdim=True)  # (B, 1, K)
        spread = (rows - centre).square().sum(dim=2).mean(dim=1)  # (B,)
        return spread[:, None] + (centre - self.prototypes).square().sum(dim=2)

    def mean_similarity(self, patches: Patches) -> Tensor:
        """Mean over all patches of the similarity to every prototype, (B, P); exact where a patch is a copy."""
        rough = self.expanded(patches)
        index, distance = self.candidates(patches, rough)
        return self.activate(rough.scatter(2, index, distance).clamp_min(0)).mean(dim=2)

    def activate(self, distance: Tensor) -> Tensor:
        """The similarity of distances of any shape."""
        if callable(self.activation):
            return self.activation(distance)
        return activate(distance, self.activation, self.epsilon)

    def _difference(self, rows: Tensor, prototypes: Tensor) -> Tensor:
        if self.metric.is_product:
            return -(rows * prototypes).sum(dim=-1)
        squared = (rows - prototypes).square().sum(dim=-1)
        return squared if self.metric.share == 1 else squared * self.metric.share

    def _weighed(self, distance: Tensor, weight: Tensor) -> Tensor:
        return self.metric.weigh(distance, weight)

    def _weights(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        tiny = torch.finfo(features.dtype).tiny
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(tiny, 1.0)  # (B, 1, H, W)
        if self.size == (1, 1):
            return length.flatten(1)
        return _windows(length, self.size)[0].mean(dim=2)  # (B, N)


def _windows(features: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """All patches of `size` (h, w) as rows (B, H' * W', h * w * D), and (H', W')."""
    height, width = features.shape[2] - size[0] + 1, features.shape[3] - size[1] + 1
    if size != (1, 1):
        shifted = [features[:, :, i : i + height, j : j + width] for i in range(size[0]) for j in range(size[1])]
        features = torch.cat(shifted, dim=1)
    return features.flatten(2).transpose(1, 2).contiguous(), (height, width)
