"""Data sets: folders of photographs and synthetic birds, augmented online. Independent of models and training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protokern.data.places import SYNTHETIC_BIRDS
from protokern.deferred import defer

if TYPE_CHECKING:
    from protokern.data.augment import PRESETS, Augmentation
    from protokern.data.birds import BirdAnnotation, SyntheticBirds
    from protokern.data.dataset import ImageDataset, Splits
    from protokern.data.decode import ReadOptions, UnreadableImageError, load_image
    from protokern.data.inspection import Inspection, inspect_data
    from protokern.data.photos import PhotoDataset
    from protokern.data.quality import data_warnings
    from protokern.data.sources import BirdCounts, open_splits

__all__ = [
    "PRESETS",
    "SYNTHETIC_BIRDS",
    "Augmentation",
    "BirdAnnotation",
    "BirdCounts",
    "ImageDataset",
    "Inspection",
    "PhotoDataset",
    "ReadOptions",
    "Splits",
    "SyntheticBirds",
    "UnreadableImageError",
    "data_warnings",
    "inspect_data",
    "load_image",
    "open_splits",
]

__getattr__ = defer(
    __name__,
    {
        "PRESETS": "protokern.data.augment",
        "Augmentation": "protokern.data.augment",
        "BirdAnnotation": "protokern.data.birds",
        "BirdCounts": "protokern.data.sources",
        "ImageDataset": "protokern.data.dataset",
        "Inspection": "protokern.data.inspection",
        "PhotoDataset": "protokern.data.photos",
        "ReadOptions": "protokern.data.decode",
        "Splits": "protokern.data.dataset",
        "SyntheticBirds": "protokern.data.birds",
        "UnreadableImageError": "protokern.data.decode",
        "data_warnings": "protokern.data.quality",
        "inspect_data": "protokern.data.inspection",
        "load_image": "protokern.data.decode",
        "open_splits": "protokern.data.sources",
    },
)
