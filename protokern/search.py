"""The nearest patches of every prototype in a data set, in one streaming pass. Push and prune are made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from protokern.models.base import PrototypeModel
from protokern.nn import evaluating

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NearestPatches:
    """The k nearest patches of every prototype, at most one of each image, nearest first.

    Entries are ordered by (distance, image, patch). Where there are fewer than k images, the last entries have distance
    inf and image, patch and label -1. All tensors are on the CPU.

    Attributes:
        distance: (P, k).
        image: (P, k) int64, position of the image in the loader's order.
        patch: (P, k) int64, flat index row * W' + column in `grid`.
        label: (P, k) int64, the image's label.
        vector: (P, k, D, h, w), the features of the patch (zeros in missing entries); None unless asked for.
        grid: (H', W'), rows and columns of the distance grid.
    """

    distance: Tensor
    image: Tensor
    patch: Tensor
    label: Tensor
    vector: Tensor | None
    grid: tuple[int, int]


def find_nearest_patches(
    model: PrototypeModel, loader: Loader, k: int = 1, *, own_class: bool = False, vectors: bool = False
) -> NearestPatches:
    """Find the k images with the patches nearest to each prototype, in one pass over the loader.

    The model runs in eval mode without gradients; afterwards every module is in its mode from before. The result does
    not depend on the batch size. Memory is that of one batch and of the result.

    Args:
        model: a prototype net.
        loader: yields (images, labels) in the data set's order, all images of one size.
        k: images per prototype, >= 1.
        own_class: look at images of the prototype's own class only.
        vectors: also return the features of the patches.

    Raises:
        ValueError: the loader is empty, shuffles, gives labels out of range or images of several sizes; k is below 1;
            or a distance is not finite.
    """
    if k < 1:
        raise ValueError(f"k: must be at least 1; got {k}. Give the number of images per prototype.")
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        raise ValueError("loader: must keep the data set's order; got one with shuffle=True. Use shuffle=False.")
    best = _Best(model, k, vectors)
    labels_seen: list[Tensor] = []
    first_image = 0
    with evaluating(model):
        for images, batch_labels in loader:
            labels = _check_labels(batch_labels, len(images), model.num_classes)
            features = model.features(images.to(best.device, non_blocking=True))  # (B, D, H, W)
            allowed = None
            if own_class:
                allowed = model.class_identity[:, labels.to(best.device, non_blocking=True)] > 0  # (P, B)
            best.update(features, first_image, allowed)
            labels_seen.append(labels)
            first_image += len(images)
    if first_image == 0:
        raise ValueError("loader: must yield at least one image; got none. Check the data set.")
    return best.result(torch.cat(labels_seen))


class _Best:
    """The running k best entries of every prototype; everything stays on the model's device until `result`."""

    def __init__(self, model: PrototypeModel, k: int, vectors: bool) -> None:
        self.layer = model.prototype_layer
        prototypes = self.layer.prototypes
        self.device = prototypes.device
        self.k = k
        count = len(prototypes)
        self.grid: tuple[int, int] | None = None
        self.distance = torch.full((count, k), torch.inf, device=self.device)
        self.image = torch.full((count, k), -1, device=self.device)
        self.patch = torch.full((count, k), -1, device=self.device)
        shape = (count, k, self.layer.prototype_dim, *self.layer.prototype_size)
        self.vector = torch.zeros(shape, dtype=prototypes.dtype, device=self.device) if vectors else None
        # Read once at the end, so that no batch waits for the device.
        self.first_bad_image = torch.full((), torch.iinfo(torch.int64).max, device=self.device)

    def update(self, features: Tensor, first_image: int, allowed: Tensor | None) -> None:
        """Merge a batch of features (B, D, H, W); `allowed` (P, B) says which images each prototype may take."""
        height, width = self.layer.prototype_size
        grid = (features.shape[2] - height + 1, features.shape[3] - width + 1)
        if self.grid not in (None, grid):
            raise ValueError(
                f"loader: must yield images of one size; got feature grids {self.grid} and {grid}. Resize the images."
            )
        self.grid = grid
        value, patch = self.layer.min_distance(features)  # (B, P) each
        image = torch.arange(first_image, first_image + len(value), device=self.device)
        is_bad = ~value.isfinite().all(dim=1)
        bad_image = torch.where(is_bad, image, torch.iinfo(torch.int64).max).min()
        self.first_bad_image = torch.minimum(self.first_bad_image, bad_image)
        distance = value.T if allowed is None else value.T.masked_fill(~allowed, torch.inf)  # (P, B)

        # Earlier images stand first and the sort is stable, so equal distances stay in the order of the images.
        candidates = torch.cat([self.distance.to(distance.dtype), distance], dim=1)  # (P, k + B)
        self.distance, order = (part[:, : self.k] for part in candidates.sort(dim=1, stable=True))
        images = torch.cat([self.image, image.expand(len(distance), -1)], dim=1).gather(1, order)
        patches = torch.cat([self.patch, patch.T], dim=1).gather(1, order)
        is_missing = self.distance.isinf()
        self.image = images.masked_fill(is_missing, -1)
        self.patch = patches.masked_fill(is_missing, -1)
        if self.vector is not None:
            new = _patch_vectors(features, (order - self.k).clamp(min=0), patches.clamp(min=0), grid, (height, width))
            old = self.vector[torch.arange(len(order), device=self.device)[:, None], order.clamp(max=self.k - 1)]
            is_new = ((order >= self.k) & ~is_missing)[..., None, None, None]
            self.vector = torch.where(is_new, new.to(old.dtype), old)

    def result(self, labels: Tensor) -> NearestPatches:
        """The entries on the CPU, with the label of each image."""
        bad_image = int(self.first_bad_image)
        if bad_image < len(labels):
            raise ValueError(
                f"model: must give finite distances; got NaN or inf, first at image {bad_image} of the loader. "
                "Check that image, and the weights for NaN."
            )
        assert self.grid is not None
        image = self.image.cpu()
        return NearestPatches(
            distance=self.distance.cpu(),
            image=image,
            patch=self.patch.cpu(),
            label=torch.where(image >= 0, labels[image.clamp(min=0)], -1),
            vector=None if self.vector is None else self.vector.cpu(),
            grid=self.grid,
        )


def _patch_vectors(
    features: Tensor, image: Tensor, patch: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Features (P, k, D, h, w) of the patches `patch` (P, k) of the images `image` (P, k) of a batch (B, D, H, W)."""
    rows = (patch // grid[1])[..., None, None] + torch.arange(size[0], device=patch.device)[:, None]
    columns = (patch % grid[1])[..., None, None] + torch.arange(size[1], device=patch.device)
    return features.permute(0, 2, 3, 1)[image[..., None, None], rows, columns].permute(0, 1, 4, 2, 3)


def _check_labels(labels: Tensor, num_images: int, num_classes: int) -> Tensor:
    """The labels as int64 on the CPU."""
    if labels.shape != (num_images,):
        raise ValueError(
            f"loader: must yield one label per image, shape ({num_images},); got {tuple(labels.shape)}. "
            "Yield (images, labels)."
        )
    labels = labels.to("cpu", torch.int64)
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"loader: must yield labels of 0 .. {num_classes - 1}; got {low} .. {high}. "
            "Use the classes that the model was built for."
        )
    return labels
