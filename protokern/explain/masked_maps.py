"""Heat maps by hiding: how the similarity of prototypes to their patches changes when parts of the image are grey."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.backbones.fusing import fused_layers
from protokern.explain.similarity import Place, place_tensors, similarity_at
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating

WINDOWS = 7  # windows that fit side by side; each moves by half of itself
MASKS, CELLS, KEPT = 500, 7, 0.5
_GREY = 0.5
_BATCH = 4  # larger batches are slower per image on a CPU


def occlusion_maps(model: PrototypeModel, image: Tensor, places: Sequence[Place]) -> list[np.ndarray]:
    """By how much the similarity of prototypes falls when a grey window hides a pixel, as the mean over the windows.

    A window has a seventh of each side and moves by half of that, so an image takes 169 passes, whatever the number of
    prototypes.

    Args:
        model: any prototype model.
        image: (C, Y, X) in [0, 1].
        places: prototypes and their patches.

    Returns:
        For each place (Y, X) float32, >= 0; 0 where hiding does not lower the similarity.

    Raises:
        ValueError: a patch is outside of the grid.

    Source: Zeiler and Fergus 2014, section 4.2.
    """
    if not places:
        return []
    height, width = image.shape[1:]
    fallen = torch.zeros(len(places), height, width, dtype=torch.float64)
    windows = torch.zeros(height, width, dtype=torch.float64)
    whole = next(_similarities(model, image, places, iter([torch.ones(height, width)])))[1][0]  # (V,)
    for shown, similarity in _similarities(model, image, places, _windows(height, width)):
        hidden = 1 - shown  # (b, Y, X)
        fallen += torch.einsum("bv,byx->vyx", whole - similarity, hidden)
        windows += hidden.sum(dim=0)
    return _as_heat(fallen / windows)


def rise_maps(
    model: PrototypeModel, image: Tensor, places: Sequence[Place], *, masks: int = MASKS, seed: int = 0
) -> list[np.ndarray]:
    """By how much the similarity of prototypes is higher than on average when a pixel is shown by random soft masks.

    A mask is a grid of 7 x 7 cells, half of them shown, bilinearly upsampled and shifted at random; what it hides is
    grey. The mean over all masks is subtracted, so that pixels that do not matter are near 0.

    Args:
        model: any prototype model.
        image: (C, Y, X) in [0, 1].
        places: prototypes and their patches, which share the passes.
        masks: their number, at least 1; each takes a pass.
        seed: of the masks, which are the same for all images of a size.

    Returns:
        For each place (Y, X) float32, >= 0.

    Raises:
        ValueError: a patch is outside of the grid, or `masks` is below 1.

    Source: Petsiuk, Das and Saenko 2018 (RISE), which leaves the mean in.
    """
    if masks < 1:
        raise ValueError(f"masks: must be at least 1; got {masks}. Give a few hundred.")
    if not places:
        return []
    height, width = image.shape[1:]
    weighted = torch.zeros(len(places), height, width, dtype=torch.float64)
    weight = torch.zeros(height, width, dtype=torch.float64)
    total = torch.zeros(len(places), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    random_masks = (_soft_mask(height, width, generator) for _ in range(masks))
    for shown, similarity in _similarities(model, image, places, random_masks):
        weighted += torch.einsum("bv,byx->vyx", similarity, shown)
        weight += shown.sum(dim=0)
        total += similarity.sum(dim=0)
    mean = (total / masks)[:, None, None]
    return _as_heat(torch.where(weight > 0, weighted / weight.clamp_min(1e-12) - mean, 0.0))


def _windows(height: int, width: int) -> Iterator[Tensor]:
    """Masks (Y, X) that hide one window each and together hide every pixel."""
    for y0, y1 in _spans(height):
        for x0, x1 in _spans(width):
            mask = torch.ones(height, width)
            mask[y0:y1, x0:x1] = 0
            yield mask


def _spans(side: int) -> list[tuple[int, int]]:
    window = ceil(side / WINDOWS)
    steps = 2 * WINDOWS - 1
    starts = sorted({round((side - window) * k / (steps - 1)) for k in range(steps)})
    return [(start, start + window) for start in starts]


def _soft_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A random mask (Y, X) in [0, 1]: a grid with one more cell than fits, upsampled, from which a part is taken."""
    cell_y, cell_x = ceil(height / CELLS), ceil(width / CELLS)
    grid = (torch.rand(CELLS + 1, CELLS + 1, generator=generator) < KEPT).float()
    size = ((CELLS + 1) * cell_y, (CELLS + 1) * cell_x)
    soft = F.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    y0, x0 = (int(torch.randint(cell, (), generator=generator)) for cell in (cell_y, cell_x))
    return soft[y0 : y0 + height, x0 : x0 + width]


def _similarities(
    model: PrototypeModel, image: Tensor, places: Sequence[Place], masks: Iterator[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of masks (b, Y, X) and the similarity at every place under each, (b, V), both float64 on the CPU."""
    image = image.to(model.device, model.dtype)
    while batch := list(islice(masks, _BATCH)):
        shown = torch.stack(batch)
        with evaluating(model), torch.inference_mode(), fused_layers(model.backbone):
            visible = shown[:, None].to(image)
            features = model.features(image * visible + _GREY * (1 - visible))
            similarity = similarity_at(model, features, *place_tensors(model, features, places))
        yield shown.double(), similarity.double().cpu()


def _as_heat(maps: Tensor) -> list[np.ndarray]:
    return list(maps.clamp_min(0).float().numpy())
