"""Live prototypes: patches of training images as the present add-on layers see them.

The gradient of a prototype flows through the add-on layers that computed it, so no push is needed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from protokern.inputs.loaders import LabelledImages, training_loader
from protokern.inputs.sources import to_device
from protokern.models.base import PrototypeModel, vectors_of
from protokern.nn import SalientLayers, apply_to_rows
from protokern.push import PushResult
from protokern.ranks import Ranks

# Layers that give the same result for a patch alone as for the patch within its map; 1x1 convolutions do, too.
_PATCH_BY_PATCH = (nn.ReLU, nn.Sigmoid, nn.Identity, nn.Dropout)


@dataclass(frozen=True, slots=True)
class LivePrototypes:
    """The patches that prototypes are, as maps of the backbone. The backbone is frozen, so they are read once.

    Attributes:
        index: (S,) int64, which prototypes are a patch, in any order; the others keep their vectors.
        maps: (M, C, H, W) of the backbone. If the add-on layers work patch by patch: only the patches, each with the
            cell of largest norm of its map if the layers need that. Otherwise the whole maps of the images with a
            patch.
        place: of each patch in `maps`: map, row and column of its first cell, (S,) int64 each.
    """

    index: Tensor
    maps: Tensor
    place: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def read(
        cls,
        model: PrototypeModel,
        images: LabelledImages,
        push: PushResult,
        *,
        batch_size: int,
        workers: int,
        channels_last: bool,
    ) -> LivePrototypes:
        """Run the backbone over the images that the prototypes come from, or read its stored maps of them.

        Args:
            model: its backbone is in evaluation mode.
            images: un-augmented images of the push, or the backbone's maps of them.
            push: the result of the push.
            batch_size: images at a time.
            workers: processes that read images.
            channels_last: memory format of the images.
        """
        index = (push.image >= 0).nonzero().flatten()
        order, maps, place = read_patches(
            model,
            images,
            push.image[index],
            push.patch[index],
            push.grid,
            batch_size=batch_size,
            workers=workers,
            channels_last=channels_last,
        )
        return cls(index[order].to(model.device), maps, place)

    def write(self, model: PrototypeModel) -> Tensor | None:
        """Set the prototypes to their patches as the add-on layers see them now.

        Returns:
            The vectors (S, D, h, w) with their autograd graph, in the order of `index`; None: there are no patches.
        """
        if not len(self.index):
            return None
        vectors = model.from_patches(look_at(model, self.maps, self.place))
        prototypes = vectors_of(model)
        with torch.no_grad():
            prototypes[self.index] = vectors.reshape(-1, *prototypes.shape[1:])
        return vectors

    def pass_on_gradient(self, model: PrototypeModel, vectors: Tensor) -> None:
        """Add the gradients that flow through the prototypes to those of the add-on layers.

        Args:
            model: its prototypes have the gradient of the whole batch on every rank; this removes it from them.
            vectors: result of `write`.
        """
        prototypes = vectors_of(model)
        assert prototypes.grad is not None
        gradient = prototypes.grad[self.index].reshape(vectors.shape)
        prototypes.grad = None
        parameters = [parameter for parameter in model.add_on_layers.parameters() if parameter.requires_grad]
        # Not `backward`, which data parallel training would treat as a part of the batch.
        parts = torch.autograd.grad(vectors, parameters, gradient, allow_unused=True)
        for parameter, part in zip(parameters, parts, strict=True):
            if part is not None:
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)


def read_patches(
    model: PrototypeModel,
    images: LabelledImages,
    image: Tensor,
    patch: Tensor,
    grid: tuple[int, int],
    *,
    batch_size: int,
    workers: int,
    channels_last: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Run the backbone over the images of some patches, or read its stored maps of them.

    Args:
        model: its backbone is in evaluation mode.
        images: un-augmented images, or the backbone's maps of them.
        image, patch: of each patch: position of its image, flat index in `grid`, (S,) int64 each.
        grid: (H', W').
        batch_size, workers, channels_last: as in `LivePrototypes.read`.

    Returns:
        The order in which the patches come, (S,) int64; `maps` and `place` in that order, as `LivePrototypes` has them.
    """
    size, dtype = model.prototype_layer.prototype_size, model.prototype_layer.dtype
    chosen, number = image.unique(return_inverse=True)
    row, column = patch // grid[1], patch % grid[1]
    is_cut = _is_patch_by_patch(model.add_on_layers)
    kept, order = [torch.empty(0, dtype=dtype, device=model.device)], []
    batches = chosen.split(batch_size) if len(chosen) else ()
    loader = training_loader(images, [batch.tolist() for batch in batches], workers, seed=0)
    for start, (inputs, _) in zip(range(0, len(chosen), batch_size), loader, strict=True):
        maps = to_device(inputs, model.device, channels_last)
        if loader.given == "images":
            with torch.no_grad():
                maps = model.backbone(maps)
        maps = maps.to(dtype)
        here = ((number >= start) & (number < start + len(maps))).nonzero().flatten()
        order.append(here)
        if is_cut:
            patches = cut_patches(maps, (number[here] - start, row[here], column[here]), size)
            if isinstance(model.add_on_layers, SalientLayers):
                largest = _cells_of_largest_norm(maps)[number[here] - start]  # (S', C)
                patches = torch.cat([patches, largest[..., None, None].expand(-1, -1, size[0], 1)], dim=3)
            maps = patches
        kept.append(maps)
    sorted_by_image = torch.cat([torch.empty(0, dtype=torch.int64), *order])
    place = (number[sorted_by_image], row[sorted_by_image], column[sorted_by_image])
    if is_cut:
        origin = torch.zeros_like(sorted_by_image)
        place = (torch.arange(len(sorted_by_image)), origin, origin)
    number_on, row_on, column_on = (one.to(model.device) for one in place)
    return sorted_by_image, torch.cat(kept[1:] or kept).contiguous(), (number_on, row_on, column_on)


def look_at(model: PrototypeModel, maps: Tensor, place: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The features (S, D, h, w) of patches in maps of the backbone, as the add-on layers see them now, with a graph."""
    layers = model.add_on_layers
    with without_noise(layers):
        return cut_patches(apply_to_rows(layers, maps), place, model.prototype_layer.prototype_size)


@contextmanager
def without_noise(*parts: nn.Module) -> Iterator[None]:
    """Parts in evaluation mode, as in the push, without dropout or batch statistics; then in the modes they had."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def copy_patches(
    model: PrototypeModel, push: PushResult, features: Iterable[tuple[Tensor, Tensor]], first_image: int, ranks: Ranks
) -> None:
    """Set every prototype that is a patch to exactly the numbers of the patch, as a push does.

    Args:
        model: whose prototypes are changed in place.
        push: where the prototypes come from.
        features: maps (B, D, H, W) with labels, of this rank's part of the images, in order.
        first_image: index of the first image of that part.
        ranks: the processes that share the images.
    """
    layer, prototypes = model.prototype_layer, vectors_of(model)
    vectors: list[Tensor] = [prototypes.new_empty(0, layer.prototype_dim, *layer.prototype_size)]
    index = [torch.empty(0, dtype=torch.int64)]
    start = first_image
    for maps, _ in features:
        here = ((push.image >= start) & (push.image < start + len(maps))).nonzero().flatten()
        place = (push.image[here] - start, push.patch[here] // push.grid[1], push.patch[here] % push.grid[1])
        vectors.append(cut_patches(maps, place, layer.prototype_size))
        index.append(here)
        start += len(maps)
    every_vector = model.from_patches(torch.cat(ranks.gather(torch.cat(vectors))).to(prototypes))
    every_index = torch.cat(ranks.gather(torch.cat(index))).to(prototypes.device)
    with torch.no_grad():
        prototypes[every_index] = every_vector.reshape(-1, *prototypes.shape[1:])


def _is_patch_by_patch(layers: nn.Sequential) -> bool:
    """Whether these layers work patch by patch; salient layers also need the largest norm in the map."""

    def looks_at_one(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d):
            return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
        return type(layer) in _PATCH_BY_PATCH

    return type(layers) in (nn.Sequential, SalientLayers) and all(looks_at_one(layer) for layer in layers)


def _cells_of_largest_norm(maps: Tensor) -> Tensor:
    """The cell of largest norm of each map, (M, C), of maps (M, C, H, W); cells that are NaN do not count."""
    norm = torch.linalg.vector_norm(maps, dim=1).nan_to_num(nan=0.0, posinf=torch.inf)  # (M, H, W)
    return maps.flatten(2)[torch.arange(len(maps), device=maps.device), :, norm.flatten(1).argmax(dim=1)]


def cut_patches(maps: Tensor, place: tuple[Tensor, Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """The patches of `size` cells at (map, row, column), (S, C, h, w), of maps (M, C, H, W)."""
    number, row, column = place
    windows = maps.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (M, C, H', W', h, w)
    return windows[number, :, row, column]
