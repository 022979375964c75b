"""What `PrototypeClassifier` may be given: images, or what a frozen backbone gave for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from protokern.backbones.fusing import can_fuse, run_fused
from protokern.features import FeatureStore
from protokern.inputs.held import MapsInMemory
from protokern.nn import evaluating
from protokern.runs.data import ReadOptions, as_image

_BATCH = 32


def are_images(rows: Any) -> bool:
    """Whether these are images: paths, pictures of Pillow, or an array (N, Y, X, 3 or 1) of uint8."""
    if isinstance(rows, FeatureStore):
        return False
    if isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.ndim == 4:
        return rows.shape[3] in (1, 3)
    is_flat = isinstance(rows, (list, tuple)) or (isinstance(rows, np.ndarray) and rows.ndim == 1)
    return bool(is_flat and len(rows) and all(isinstance(one, (str, os.PathLike, Image.Image)) for one in rows))


def maps_of_rows(rows: np.ndarray) -> MapsInMemory:
    """Numbers (N, D) or (N, C, H, W) as maps; a row of D numbers is a single patch.

    Raises:
        ValueError: they have another shape.
    """
    if rows.ndim not in (2, 4):
        raise ValueError(
            f"X: must be images, features (N, D) or maps (N, C, H, W); got an array of shape {rows.shape}. Flatten "
            "other features."
        )
    if rows.dtype not in (np.float16, np.float32):
        rows = rows.astype(np.float32)
    maps = torch.from_numpy(np.ascontiguousarray(rows))
    return MapsInMemory(maps if rows.ndim == 4 else maps[..., None, None])


def run_backbone(
    backbone: nn.Module, images: Sequence[Any], image_size: int | tuple[int, int], device: torch.device
) -> MapsInMemory:
    """The maps (N, C, H, W) of images, on the CPU in bfloat16, which is how the recipe `quick` stores them.

    Raises:
        ValueError: one of them is no image.
        DataError: a file cannot be read.
    """
    parts = []
    is_fused = can_fuse(backbone)
    with evaluating(backbone):
        for start in range(0, len(images), _BATCH):
            some = [as_image(one, image_size, ReadOptions()) for one in images[start : start + _BATCH]]
            batch = torch.stack(some).to(device)
            maps = run_fused(backbone, batch) if is_fused else backbone(batch)
            parts.append(maps.to("cpu", torch.bfloat16))
    return MapsInMemory(torch.cat(parts))


def compute_maps(
    images: Sequence[Any],
    *,
    backbone: str = "efficientnet_lite0",
    image_size: int | tuple[int, int] = 224,
    salience_stage: int | None = -2,
) -> np.ndarray:
    """What a frozen backbone gives for images, (N, C, H, W) float16: compute it once, then try many settings.

    Args:
        images: paths, pictures of Pillow, or arrays.
        backbone: a name, with its ImageNet weights; see `protokern.backbones`.
        image_size: pixels.
        salience_stage: the stage by which patches are weighed, as in the recipe `quick`; None: none.

    Raises:
        ValueError: one of them is no image, or there is no such backbone.
        DataError: a file cannot be read.
    """
    from protokern.backbones import build_backbone

    net = build_backbone(backbone, weights="imagenet", salience_stage=salience_stage)
    maps = run_backbone(net, images, image_size, torch.device("cpu")).maps
    held: np.ndarray = maps.to(torch.float16).numpy()
    return held
