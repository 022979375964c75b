"""Where prototypes look in an image: patches, heat maps and boxes, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from protokern.explain.boxes import cell_box, find_boxes
from protokern.explain.heat_maps import gradient_heat_map
from protokern.explain.pictures import make_visible, overlay_heat, upsample
from protokern.models.base import PrototypeModel
from protokern.results.places import LazyPicture, PatchView, ReceptiveField, SeenPicture


def see(picture: np.ndarray, view: PatchView, heat_map: str) -> SeenPicture:
    """A picture with the view of a prototype; its frame is the patch box.

    Args:
        picture: (Y, X, 3) uint8.
        view: where the prototype looks in it.
        heat_map: how the heat map of the view was computed, see `explain_image`.
    """
    heat = view.heat_map if heat_map == "upsample" else make_visible(view.heat_map)
    return SeenPicture(
        image=picture,
        heat=LazyPicture(load=partial(overlay_heat, picture, heat), shape=picture.shape, key=object()),
        box=view.patch_box,
        receptive_field_box=view.receptive_field_box,
    )


def view_patches(
    model: PrototypeModel,
    features: Tensor,
    patches: Tensor,
    prototypes: Sequence[int],
    image_size: Sequence[int],
    receptive_field: ReceptiveField,
) -> list[PatchView]:
    """Where some prototypes look in one image, from its features.

    Args:
        model: in evaluation mode.
        features: (D, H, W) of the image.
        patches: (P,) int64: the patch of every prototype of the model, row * W' + column.
        prototypes: indices of the prototypes to view.
        image_size: (Y, X), pixels.
        receptive_field: of the model for this image size.
    """
    if not prototypes:
        return []
    layer = model.prototype_layer
    index = torch.tensor(list(prototypes), dtype=torch.int64, device=features.device)
    distance = layer.distance_map(features[None], index)[0]  # (P', H', W')
    height, width = image_size
    heat_maps = upsample(layer.activate(distance), (height, width)).cpu().numpy()  # (P', Y, X)
    grid = (distance.shape[1], distance.shape[2])
    patch_size = (features.shape[1] - grid[0] + 1, features.shape[2] - grid[1] + 1)
    views = []
    for j, patch, heat_map in zip(prototypes, patches[index.to(patches.device)].tolist(), heat_maps, strict=True):
        row, column = divmod(patch, grid[1])
        cell = cell_box(grid, (row, column), (height, width))
        activation, around_patch = find_boxes(heat_map, cell)
        views.append(
            PatchView(
                prototype=j,
                patch=(row, column),
                heat_map=heat_map,
                activation_box=activation,
                patch_box=around_patch,
                receptive_field_box=receptive_field.box(row, column, patch_size),
                cell=cell,
            )
        )
    return views


def with_heat_map(model: PrototypeModel, image: Tensor, views: list[PatchView], heat_map: str) -> list[PatchView]:
    """The views with heat maps of the named kind, see `explain_image`."""
    return views if heat_map == "upsample" else [show_gradient(model, image, view, heat_map) for view in views]


def show_gradient(model: PrototypeModel, image: Tensor, view: PatchView, method: str) -> PatchView:
    """A view with a heat map by "gradient" or "smoothgrad" instead of the upsampled one; the boxes stay.

    Raises:
        ValueError: `method` is unknown.
        MissingPackageError: captum is not installed.
    """
    whole = gradient_heat_map(model, image, view.prototype, view.patch, method=method)
    y0, x0, y1, x1 = view.receptive_field_box
    inside = np.zeros_like(whole)  # some convolutions on CUDA leave rounding errors outside
    inside[y0:y1, x0:x1] = whole[y0:y1, x0:x1]
    return replace(view, heat_map=inside)
