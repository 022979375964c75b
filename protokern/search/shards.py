"""A search that ranks share: each searches its part of the images, and all get the whole answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from protokern.models.base import Given, PrototypeModel
from protokern.ranks import Ranks
from protokern.search.batches import Excluded
from protokern.search.result import NearestPatches, merge_nearest
from protokern.search.stream import find_nearest_patches


class Part(Protocol):
    """Inputs with labels, batch by batch, of a part of a data set; a part may have none. `given` says what they are."""

    @property
    def given(self) -> Given: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, slots=True)
class ShardedSearch:
    """`find_nearest_patches` in a data set of which each rank has a consecutive part.

    Attributes:
        ranks: those that share the images.
        part: this rank's, in the order of the data set.
        first_image: the first image of this rank's part.
        excluded: which patches no prototype may take, as in `find_nearest_patches`.
    """

    ranks: Ranks
    part: Part
    first_image: int
    excluded: Excluded | None = None

    def __call__(
        self,
        model: PrototypeModel,
        k: int,
        *,
        own_class: bool = False,
        vectors: bool = False,
        weighted: bool = True,
    ) -> NearestPatches:
        """The nearest patches in all parts, on every rank; bit for bit those of one search in all images."""
        found = (
            find_nearest_patches(
                model,
                self.part,
                k,
                own_class=own_class,
                vectors=vectors,
                first_image=self.first_image,
                weighted=weighted,
                given=self.part.given,
                excluded=self.excluded,
            )
            if len(self.part)
            else _nothing(model, k, vectors)
        )
        if self.ranks.size == 1:
            return found
        tensors = (found.distance, found.image, found.patch, found.label, torch.tensor(found.grid))
        distance, image, patch, label, grid = (self.ranks.gather(tensor) for tensor in tensors)
        vector: Sequence[Tensor | None] = [None] * self.ranks.size
        if found.vector is not None:
            vector = self.ranks.gather(found.vector)
        parts = [
            NearestPatches(distance[rank], image[rank], patch[rank], label[rank], vector[rank], (rows, columns))
            for rank, (rows, columns) in enumerate(torch.stack(grid).tolist())
            if rows
        ]
        return merge_nearest(parts)


def _nothing(model: PrototypeModel, k: int, vectors: bool) -> NearestPatches:
    """The answer of a part without images; its grid has no rows."""
    layer = model.prototype_layer
    missing = torch.full((layer.num_prototypes, k), -1)
    vector = torch.zeros(*missing.shape, layer.prototype_dim, *layer.prototype_size) if vectors else None
    return NearestPatches(missing.to(torch.float32), missing, missing, missing, vector, (0, 0))
