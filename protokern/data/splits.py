"""The data sets of one run, named by what they are for."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.data.dataset import ImageDataset
from protokern.data.grey import AUTO, GreyRange
from protokern.data.own_split import OwnSplit


@dataclass(frozen=True, slots=True)
class Splits:
    """The data sets of one run.

    Attributes:
        train: augmented training images.
        push: the same images in the same order, without augmentation.
        val: images that choose the best epoch.
        test: images for the final accuracy; nothing is chosen by them.
        classes: class names.
        notes: what the user should know about the data, one line each; for the log.
        warnings: what speaks against trusting results on these data, see `data_warnings`; None: nobody has looked.
        grey_range: of files with more than 8 bits, as it was given or measured; see `load_image`.
        own_split: how a folder without split folders was split by itself; None for other data.
    """

    train: ImageDataset
    push: ImageDataset
    val: ImageDataset
    test: ImageDataset
    classes: list[str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] | None = None
    grey_range: GreyRange = AUTO
    own_split: OwnSplit | None = None
