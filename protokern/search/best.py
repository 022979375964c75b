"""The running k best entries of every prototype, on the model's device."""

from __future__ import annotations

import torch
from torch import Tensor

from protokern.kernels.checks import MOST_PATCHES
from protokern.nn import PatchLayer, PrototypeLayer
from protokern.search.copies import drop_copies, first_copies
from protokern.search.order import Entries, first_positions, merge

# Numbers in one piece of a distance map.
_MAP_BUDGET = 1 << 24


class RunningBest:
    """The k best entries of every prototype among the features offered so far.

    Nothing waits for the device, unless copies are dropped: batches may be offered one after the other, and non-finite
    values are reported once, at the end. On the CPU a prototype costs more than a comparison only if a batch improves
    its entries.

    Args:
        layer: the prototypes.
        k: entries per prototype.
        all_patches: an image may be in several entries.
        distinct: no two entries of a prototype have equal vectors.
        vectors: keep the features of the patches.
    """

    def __init__(self, layer: PatchLayer, k: int, *, all_patches: bool, distinct: bool, vectors: bool) -> None:
        self.layer = layer
        self.k = k
        self.all_patches = all_patches
        self.distinct = distinct and k > 1
        self.vectors = vectors
        self.device = layer.device
        self.grid: tuple[int, int] | None = None
        self.entries: Entries | None = None
        self._no_image = torch.iinfo(torch.int64).max
        self._is_projected = layer.is_projected
        self.first_bad_image = torch.full((), self._no_image, device=self.device)
        self.first_negative_image = self.first_bad_image.clone()

    def offer(
        self, features: Tensor, image: Tensor, prototypes: Tensor | None = None, weight: Tensor | None = None
    ) -> None:
        """Merge the patches of some images, whose grid was checked.

        Args:
            features: (B, D, H, W).
            image: (B,) int64, ascending.
            prototypes: (P',) int64, which of them may take these images; None: all.
            weight: (B, H', W'), 0 for patches that may not be taken, and 1; None: all may. Not with `all_patches`.
        """
        if weight is not None:
            left = (weight > 0).flatten(1).any(dim=1).nonzero().flatten()
            if not len(left):
                return
            features, image, weight = features[left], image[left], weight[left]
        on_cpu = self.device.type == "cpu"
        if self.all_patches and not on_cpu:
            self._offer_all(features, image, prototypes)
            return
        value, patch = self._min_distance(features, prototypes, weight)  # (B, P') each
        self._note_bad(value, image)
        if on_cpu:
            worst = self._state(value.dtype).distance[:, -1]
            gains = (value.amin(dim=0) <= (worst if prototypes is None else worst[prototypes])).nonzero().flatten()
            if len(gains) == 0:
                return
            if len(gains) < value.shape[1]:
                prototypes = gains if prototypes is None else prototypes[gains]
                value, patch = value[:, gains], patch[:, gains]
        if self.all_patches:
            self._offer_all(features, image, prototypes)
        else:
            self._put(features, image, prototypes, value.T, patch.T)

    def _min_distance(
        self, features: Tensor, prototypes: Tensor | None, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if weight is None:
            return self.layer.min_distance(features, prototypes, exact=True)
        assert isinstance(self.layer, PrototypeLayer)
        return self.layer.min_distance(features, prototypes, exact=True, patch_weight=weight)

    def _offer_all(self, features: Tensor, image: Tensor, prototypes: Tensor | None) -> None:
        """Merge every patch: the k nearest ones of each image, or all that are in pieces of the distance map."""
        assert self.grid is not None
        if self.k <= MOST_PATCHES and not self.distinct:
            k = min(self.k, self.grid[0] * self.grid[1])
            value, patch = self.layer.nearest_distances(features, k, prototypes)  # (B, P', k) each
            self._note_bad(value.flatten(1), image)
            self._put(features, image, prototypes, value.transpose(0, 1).flatten(1), patch.transpose(0, 1).flatten(1))
            return
        count = self.layer.num_prototypes if prototypes is None else len(prototypes)
        step = max(1, _MAP_BUDGET // (count * self.grid[0] * self.grid[1]))
        for start in range(0, len(features), step):
            piece, some = features[start : start + step], image[start : start + step]
            distance = self.layer.distance_map(piece, prototypes).flatten(2)  # (b, P', N)
            self._note_bad(distance.flatten(1), some)
            self._put(piece, some, prototypes, distance.transpose(0, 1).flatten(1), None)

    def result(self) -> Entries:
        """All entries, on the CPU.

        Raises:
            ValueError: a distance was not finite, or negative under a metric that has no such distances.
        """
        bad_image = int(self.first_bad_image)
        if bad_image != self._no_image:
            raise ValueError(
                f"model: must give finite distances; got NaN or inf, first at image {bad_image} of the loader. "
                "Check that image, and the weights for NaN."
            )
        negative_image = int(self.first_negative_image)
        if negative_image != self._no_image:
            raise ValueError(
                f"model: must give distances of at least 0{_with_metric(self.layer)}; got a negative one, "
                f"first at image {negative_image} of the loader. Use the distances of the ops, or metric 'dot'."
            )
        entries = self._state(torch.float32)
        vector = None if entries.vector is None or not self.vectors else entries.vector.cpu()
        return Entries(entries.distance.cpu(), entries.image.cpu(), entries.patch.cpu(), None, vector)

    def _note_bad(self, distance: Tensor, image: Tensor) -> None:
        """Remember the first images with a distance (B, ...) that cannot be one; they are reported at the end."""
        least, most = distance.aminmax(dim=1)
        is_bad = ~(least.isfinite() & most.isfinite())
        self.first_bad_image = torch.minimum(self.first_bad_image, self._first(is_bad, image))
        if not self._is_projected:
            self.first_negative_image = torch.minimum(self.first_negative_image, self._first(least < 0, image))

    def _first(self, is_one: Tensor, image: Tensor) -> Tensor:
        """The first of the images (B,) that are one."""
        return torch.where(is_one, image, self._no_image).min()

    def _put(
        self, features: Tensor, image: Tensor, prototypes: Tensor | None, distance: Tensor, patch: Tensor | None
    ) -> None:
        """Merge candidates in the order of images.

        Args:
            features: (B, D, H, W).
            image: (B,) int64.
            prototypes: (P',) int64; None: all.
            distance: (P', B n), of n patches of each image; of equally near ones the first comes first.
            patch: (P', B n), where; None: all patches in order, n = N.
        """
        if self.distinct:
            distance = drop_copies(distance, first_copies(features, self.layer.prototype_size), patch)
        position = first_positions(distance, self.k)  # (P', k')
        per_image = distance.shape[1] // len(image)
        row = position // per_image
        taken = position % per_image if patch is None else patch.gather(1, position)
        vector = self._vectors(features, row, taken) if self.vectors or self.distinct else None
        new = Entries(distance.gather(1, position), image[row], taken, None, vector)
        if self.distinct:
            new = new.without(new.distance.isinf())
        state = self._state(distance.dtype)
        if prototypes is None:
            self.entries = merge(state, new, self.k, self.distinct)
            return
        merged = merge(state.rows(prototypes), new, self.k, self.distinct)
        state.distance[prototypes] = merged.distance
        state.image[prototypes] = merged.image
        state.patch[prototypes] = merged.patch
        if state.vector is not None and merged.vector is not None:
            state.vector[prototypes] = merged.vector

    def _vectors(self, features: Tensor, row: Tensor, patch: Tensor) -> Tensor:
        """Features (P', k', D, h, w) of the patches `patch` (P', k') of the images `row` (P', k') of `features`."""
        assert self.grid is not None
        height, width = self.layer.prototype_size
        if (height, width) == (1, 1):
            cells = features[row, :, patch // self.grid[1], patch % self.grid[1]]  # (P', k', D)
            return cells.to(self.layer.dtype)[..., None, None]
        rows = (patch // self.grid[1])[..., None, None] + torch.arange(height, device=patch.device)[:, None]
        columns = (patch % self.grid[1])[..., None, None] + torch.arange(width, device=patch.device)
        taken = features.permute(0, 2, 3, 1)[row[..., None, None], rows, columns].permute(0, 1, 4, 2, 3)
        return taken.to(self.layer.dtype)

    def _state(self, dtype: torch.dtype) -> Entries:
        """The entries so far; at first all are missing, with distances in `dtype`."""
        if self.entries is None:
            count = self.layer.num_prototypes
            shape = (count, self.k, self.layer.prototype_dim, *self.layer.prototype_size)
            vectors = None
            if self.vectors or self.distinct:
                vectors = torch.zeros(shape, dtype=self.layer.dtype, device=self.device)
            self.entries = Entries(
                torch.full((count, self.k), torch.inf, dtype=dtype, device=self.device),
                torch.full((count, self.k), -1, device=self.device),
                torch.full((count, self.k), -1, device=self.device),
                None,
                vectors,
            )
        return self.entries

    def check_grid(self, features: Tensor) -> None:
        """Record the grid of features (B, D, H, W).

        Raises:
            ValueError: earlier features had another grid.
        """
        height, width = self.layer.prototype_size
        grid = (features.shape[2] - height + 1, features.shape[3] - width + 1)
        if self.grid not in (None, grid):
            raise ValueError(
                f"loader: must yield images of one size; got feature grids {self.grid} and {grid}. Resize the images."
            )
        self.grid = grid


def _with_metric(layer: PatchLayer) -> str:
    return f" with metric {layer.metric!r}" if isinstance(layer, PrototypeLayer) else ""
