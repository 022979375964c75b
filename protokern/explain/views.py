"""Where prototypes look in an image: patches, heat maps and boxes, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from protokern.explain.boxes import cell_box, find_boxes
from protokern.explain.heat_maps import pixel_heat_maps
from protokern.explain.pictures import make_visible, overlay_heat, upsample
from protokern.explain.similarity import Place
from protokern.models.base import PrototypeModel
from protokern.results.places import Box, LazyPicture, PatchView, ReceptiveField, SeenPicture


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


def with_heat_map(model: PrototypeModel, image: Tensor, views: Sequence[PatchView], heat_map: str) -> list[PatchView]:
    """Views of one image with heat maps of another kind than "upsample", see `pixel_heat_maps`; the boxes stay."""
    if heat_map == "upsample":
        return list(views)
    places = [Place(view.prototype, view.patch) for view in views]
    return [
        replace(view, heat_map=_within(view.receptive_field_box, whole))
        for view, whole in zip(views, pixel_heat_maps(model, image, places, heat_map), strict=True)
    ]


def _within(box: Box, heat_map: np.ndarray) -> np.ndarray:
    """A heat map with zeros outside of a box: no pixel there can matter, but masks are wider, and some convolutions on
    CUDA leave rounding errors."""
    inside = np.zeros_like(heat_map)
    y0, x0, y1, x1 = box
    inside[y0:y1, x0:x1] = heat_map[y0:y1, x0:x1]
    return inside
