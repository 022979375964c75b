"""Settings of the images. `protokern.config` reads them from TOML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from protokern.data.pixel_limit import MAX_PIXELS
from protokern.errors import require, require_number

LARGEST_SIDE = 65_536  # pixels of an image's side as a net sees it


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The images and how they are read.

    Attributes:
        path: folder with train/, test/ and optionally val/; "webdataset:DIR", a folder of tar files;
            "huggingface:NAME", a data set of that name or in that folder; empty: the synthetic birds, which need no
            files.
        image_size: pixels, one number or rows and columns.
        val_fraction: share of every class of train/ that is held out if there is no val/.
        test_fraction: share of every class that becomes the test split if there are only class folders, without train/
            and test/.
        channels: channels of an image: 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity; more: grey pages of one
            file.
        grey_range: values that become black and white, for files with more than 8 bits a channel: two numbers; "type":
            0 and 65535; "auto": 0 and the largest value of 8, 10, 12, 14 or 16 bits, by the largest one in the training
            images; the run writes these numbers to run.toml instead of "auto".
        augmentation: random changes of the training images: "none", "protopnet" (rotate, shear or skew, flip) or "crop"
            (random crop, rotate, flip).
        on_unreadable: what to do about files that are not images: "stop" and list them, or "skip" them.
        workers: processes that read images; 0: threads of the main process.
        max_image_pixels: largest number of pixels of an image file; a larger one is refused before it is decoded,
            because a small file may expand to more than the memory holds.
        cache: "memory" keeps the decoded images, "none" reads them again in every epoch.
        feature_store: folder for the features of a frozen backbone (train.backbone), which runs may share; empty:
            inside the run folder.
        feature_precision: precision of the stored features: "fp32", or "bf16" for half the space.
        birds_classes: number of classes of the synthetic birds.
        birds_train, birds_val, birds_test: synthetic birds of each class in the three splits.
        birds_differ_in: how the classes of synthetic birds differ: "species", in all parts and the plumage; "colour"
            alone; or the shape of the "beak" alone.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str = ""
    image_size: int | tuple[int, int] = 224
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    channels: int = 3
    grey_range: Literal["auto", "type"] | tuple[float, float] = "auto"
    augmentation: Literal["none", "protopnet", "crop"] = "protopnet"
    on_unreadable: Literal["stop", "skip"] = "stop"
    workers: int = 0
    cache: Literal["none", "memory"] = "none"
    max_image_pixels: int = MAX_PIXELS
    feature_store: str = ""
    feature_precision: Literal["fp32", "bf16"] = "fp32"
    birds_classes: int = 10
    birds_train: int = 100
    birds_val: int = 20
    birds_test: int = 30
    birds_differ_in: Literal["species", "colour", "beak"] = "species"

    def __post_init__(self) -> None:
        sides = (self.image_size,) if isinstance(self.image_size, int) else self.image_size
        require(min(sides) >= 1, "image_size", "at least 1", self.image_size)
        require(max(sides) <= LARGEST_SIDE, "image_size", f"at most {LARGEST_SIDE}", self.image_size)
        for name in ("val_fraction", "test_fraction"):
            require(0 < getattr(self, name) < 1, name, "between 0 and 1", getattr(self, name))
        if not isinstance(self.grey_range, str):
            low, high = self.grey_range
            is_range = math.isfinite(low) and math.isfinite(high) and low < high
            require(is_range, "grey_range", "two finite numbers, the smaller one first", list(self.grey_range))
        require_number(self, "channels", minimum=1)
        require_number(self, "workers")
        require_number(self, "birds_classes", minimum=2)
        require_number(self, "max_image_pixels", minimum=1)
        require_number(self, "birds_train", "birds_val", "birds_test", minimum=1)
