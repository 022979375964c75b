"""The nearest training patches of an image, for nets that have no prototypes: what else looks like this to the net?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protokern.explain.boxes import cell_box
from protokern.explain.pictures import to_picture
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.shown import Shown
from protokern.kernels.metric import METRICS
from protokern.models.base import PrototypeModel
from protokern.models.wrapped import WrappedModel
from protokern.nets.net import Net
from protokern.nn import PrototypeLayer, evaluating
from protokern.results.matches import PatchMatch
from protokern.results.places import LazyPicture, ReceptiveField, SeenPicture
from protokern.runs.data import ReadOptions, as_image, name_of
from protokern.search import find_nearest_patches

_BATCH = 32
_SHOWN = 8  # patches on the page


class _Images:
    """A data set, or a list of images, as tensors with names and labels.

    Args:
        data: items are (image (C, Y, X), label); or images of any kind that `as_image` takes.
        image_size: of the latter, pixels.
    """

    def __init__(self, data: Any, image_size: int | tuple[int, int] | None) -> None:
        self.data, self.size = data, image_size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.data[index]
        is_labelled = isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Tensor)
        image, label = item if is_labelled else (item, -1)
        return (image if is_labelled else self.read(image)), int(label)

    def read(self, image: Any) -> Tensor:
        """An image as a tensor, resized if a size was given."""
        if self.size is not None:
            return as_image(image, self.size, ReadOptions())
        if isinstance(image, Tensor):
            return image
        raise ValueError("image_size: must be given for images that are no tensors; got none. Say in which size.")

    def name(self, index: int) -> str:
        """What the data set calls an image, else its file name, else its number."""
        if hasattr(self.data, "sample_name"):
            return str(self.data.sample_name(index))
        samples = getattr(self.data, "samples", None)  # of torchvision's folders
        item = self.data[index] if samples is None else samples[index][0]
        return name_of(item) or f"image {index}"

    def batches(self, labels: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches for a search, which needs no classes; their labels are added to `labels`."""
        for start in range(0, len(self), _BATCH):
            items = [self[index] for index in range(start, min(start + _BATCH, len(self)))]
            labels += [label for _, label in items]
            yield torch.stack([image for image, _ in items]), torch.zeros(len(items), dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NearestExamples(Shown):
    """The nearest training patches of every patch of an image, at most one of each training image.

    Attributes:
        patches: (row, column) of the Q patches of the image.
        image: (Q, k) int64, positions in the data; -1: there are fewer.
        patch: (Q, k) int64, row * columns + column in `grid`.
        distance: (Q, k), in `metric`.
        label: (Q, k) int64, what the data say of these images; -1: nothing.
        names: of the images, by position in the data, of those that were found.
        grid: rows and columns of the patches.
        metric: of the distances.
    """

    patches: tuple[tuple[int, int], ...]
    image: Tensor
    patch: Tensor
    distance: Tensor
    label: Tensor
    names: dict[int, str]
    grid: tuple[int, int]
    metric: str
    _pixels: Tensor = field(compare=False)
    _images: _Images = field(compare=False)
    _model: PrototypeModel = field(compare=False)

    def __repr__(self) -> str:
        count = self.image.shape[1]
        return f"NearestExamples: {count} training patches for each of {len(self.patches)} patches of an image"

    def to_dict(self) -> list[dict[str, Any]]:
        """A row for every patch and training patch, by patch and then by distance."""
        rows = []
        for q, place in enumerate(self.patches):
            for rank, index in enumerate(self.image[q].tolist()):
                if index >= 0:
                    rows.append(
                        {
                            "patch": place,
                            "image": index,
                            "name": self.names[index],
                            "label": int(self.label[q, rank]),
                            "image_patch": divmod(int(self.patch[q, rank]), self.grid[1]),
                            "distance": float(self.distance[q, rank]),
                        }
                    )
        return rows

    def _render(self) -> str:
        from protokern.report.page import render_matches

        return render_matches(self._matches(), to_picture(self._pixels), self.metric)

    def save(self, path: Path | str) -> None:
        """Write the page of the patches with the nearest examples to `path`, at once."""
        from protokern.report.files import write_page

        write_page(self._render(), Path(path))

    def _matches(self) -> tuple[PatchMatch, ...]:
        """The patches whose nearest example is nearest, each with it."""
        image = self._pixels.to(self._model.device, self._model.dtype)
        with evaluating(self._model):
            receptive = find_receptive_field(self._model.features, image)
        order = self.distance[:, 0].argsort(stable=True)[:_SHOWN].tolist()
        here = to_picture(self._pixels)
        return tuple(
            PatchMatch(
                here=self._seen(here, self.patches[q], receptive),
                there=self._seen(self._picture(index), divmod(int(self.patch[q, 0]), self.grid[1]), receptive),
                name=self.names[index],
                distance=float(self.distance[q, 0]),
            )
            for q in order
            if (index := int(self.image[q, 0])) >= 0
        )

    def _picture(self, index: int) -> LazyPicture:
        size = self._pixels.shape[1:]
        return LazyPicture(load=partial(self._load, index), shape=(*size, 3), key=("example", index))

    def _load(self, index: int) -> np.ndarray:
        return to_picture(self._images[index][0])

    def _seen(
        self, picture: np.ndarray | LazyPicture, patch: tuple[int, int], receptive: ReceptiveField
    ) -> SeenPicture:
        size = (self._pixels.shape[1], self._pixels.shape[2])
        return SeenPicture(
            image=picture, box=cell_box(self.grid, patch, size), receptive_field_box=receptive.box(*patch)
        )


def nearest_examples(
    net: Net | nn.Module,
    data: Any,
    image: Any,
    *,
    k: int = 5,
    patches: Sequence[tuple[int, int]] | None = None,
    metric: str = "cosine",
    image_size: int | tuple[int, int] | None = None,
) -> NearestExamples:
    """The training patches that are nearest to the patches of an image, to any net that gives maps.

    Exact, in one pass over the data; memory is that of one batch and of the result.

    Args:
        net: a module from images (B, C, Y, X) to maps (B, D, H, W), such as the backbone of a classifier; a prototype
            model, of which the features are compared; or a `Net`.
        data: a data set with items (image (C, Y, X), label), or a sequence of images, in their order.
        image: like those of `data`.
        k: examples of each patch, at most one of each image of the data; >= 1.
        patches: (row, column) of the patches of `image`; None: all.
        metric: of the distances, "cosine" or "sqeuclidean".
        image_size: pixels; needed if images are no tensors. A `Net` knows it.

    Raises:
        ValueError: an argument is wrong, the net gives no maps, or a distance is not finite.
        DataError: a file cannot be read.
    """
    if metric not in METRICS or metric == "dot":
        raise ValueError(f"metric: must be cosine or sqeuclidean; got {metric!r}. Choose one of them.")
    if isinstance(net, Net):
        image_size, net = image_size or net.image_size, net.model
    images = _Images(data, image_size)
    pixels = images.read(image)
    backbone = _Features(net) if isinstance(net, PrototypeModel) else net
    like = next((one for one in net.parameters() if one.is_floating_point()), torch.zeros(0))
    with evaluating(net):
        maps = backbone(pixels[None].to(like.device, like.dtype))
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"net: must give maps (B, D, H, W); got {got}. Leave out what comes after the maps.")
    chosen = _chosen(patches, (maps.shape[2], maps.shape[3]))
    vectors = torch.stack([maps[0, :, row, column] for row, column in chosen])  # (Q, D)
    model = _asking_for(vectors, backbone, metric)
    labels: list[int] = []
    found = find_nearest_patches(model, images.batches(labels), k)
    known = torch.tensor([*labels, -1])
    return NearestExamples(
        patches=chosen,
        image=found.image,
        patch=found.patch,
        distance=found.distance,
        label=known[found.image],
        names={index: images.name(index) for index in sorted(set(found.image.flatten().tolist())) if index >= 0},
        grid=found.grid,
        metric=metric,
        _pixels=pixels,
        _images=images,
        _model=model,
    )


def _asking_for(vectors: Tensor, backbone: nn.Module, metric: str) -> WrappedModel:
    """A model whose prototypes are these vectors (Q, D)."""
    layer = PrototypeLayer(len(vectors), vectors.shape[1], metric=metric, activation="linear").to(vectors)
    layer.prototypes.data = vectors.contiguous()
    last = nn.Linear(len(vectors), 1, bias=False, device=vectors.device, dtype=vectors.dtype)
    return WrappedModel(backbone, layer, last)


class _Features(nn.Module):
    """The features of a prototype model."""

    def __init__(self, model: PrototypeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, D, H, W)."""
        return self.model.features(images)


def _chosen(patches: Sequence[tuple[int, int]] | None, grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    if patches is None:
        return tuple((row, column) for row in range(grid[0]) for column in range(grid[1]))
    outside = [one for one in patches if not (0 <= one[0] < grid[0] and 0 <= one[1] < grid[1])]
    if outside or not len(patches):
        got = outside[0] if outside else "none"
        raise ValueError(f"patches: must be (row, column) in a grid of {grid[0]} x {grid[1]}; got {got}. Name one.")
    return tuple((int(row), int(column)) for row, column in patches)
