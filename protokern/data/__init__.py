"""Data sets: folders of photographs and synthetic birds, augmented online. Independent of models and training."""

from protokern.data.augment import PRESETS, Augmentation
from protokern.data.birds import BirdAnnotation, SyntheticBirds
from protokern.data.dataset import ImageDataset, Splits
from protokern.data.decode import ReadOptions, UnreadableImageError, load_image
from protokern.data.photos import PhotoDataset
from protokern.data.quality import data_warnings
from protokern.data.sources import SYNTHETIC_BIRDS, BirdCounts, open_splits

__all__ = [
    "PRESETS",
    "SYNTHETIC_BIRDS",
    "Augmentation",
    "BirdAnnotation",
    "BirdCounts",
    "ImageDataset",
    "PhotoDataset",
    "ReadOptions",
    "Splits",
    "SyntheticBirds",
    "UnreadableImageError",
    "data_warnings",
    "load_image",
    "open_splits",
]
