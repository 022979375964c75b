"""Data sets: folders of photographs and synthetic birds, augmented online. Knows nothing of models or training."""

from protokern.data.augment import PRESETS, Augmentation
from protokern.data.dataset import ImageDataset
from protokern.data.decode import UnreadableImageError, load_image
from protokern.data.photos import PhotoDataset
from protokern.data.sources import open_splits
from protokern.data.splits import Splits

__all__ = [
    "PRESETS",
    "Augmentation",
    "ImageDataset",
    "PhotoDataset",
    "Splits",
    "UnreadableImageError",
    "load_image",
    "open_splits",
]
