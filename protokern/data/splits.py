"""The data sets of one run, named by what they are for."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.data.dataset import ImageDataset


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
    """

    train: ImageDataset
    push: ImageDataset
    val: ImageDataset
    test: ImageDataset
    classes: list[str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] | None = None
