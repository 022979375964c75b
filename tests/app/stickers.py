"""A planted shortcut: a sticker on every training image of one class, and none on the test images.

Validation images are split off the training images, so the accuracy on them does not show that a net reads the sticker.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from protokern.cli.main import main
from protokern.data import SyntheticBirds
from protokern.push import PushResult

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the image

SHARE = 0.28  # side of the sticker, of the shorter side of the picture
MARGIN, JITTER = 0.03, 0.04  # of width and height: from the corner, and how much farther at most
_MAGENTA, _YELLOW = (230, 20, 140), (250, 220, 0)

# Small, and still a bird of 60 pixels: a patch of the tiny net sees 31 of them, so it sees the sticker or the bird.
SIZE = 96
CLASSES, TRAIN_IMAGES, TEST_IMAGES = 4, 30, 50
_PART = "wing"

# The tiny net learns from random weights. A pretrained, frozen net tells these birds apart so well that no sticker
# fools it. `salience` draws prototypes to what stands out, here the sticker.
_SETTINGS: Mapping[str, object] = {
    "model.backbone": "tiny",
    "model.weights": "none",
    "model.prototypes_per_class": 3,
    "model.prototype_dim": 64,
    "model.metric": "cosine",
    "model.activation": "cosine",
    "model.add_on_layers": "linear",
    "model.salience": 1.0,
    "model.correct_class_weight": 5.0,
    "model.incorrect_class_weight": 0.0,
    "data.image_size": SIZE,
    "data.val_fraction": 0.2,
    "data.augmentation": "none",
    "train.batch_size": 16,
    "train.warm_epochs": 0,
    "train.joint_epochs": 12,
    "train.push_start": 99,
    "train.patience": 0,
    "train.backbone_lr": 3e-3,
    "train.schedule": "cosine",
    "train.last_layer_own": "non_negative",
    "train.last_layer_others": "needed",
}

# Prototypes that are drawn to the patches most like them end on the sticker; of three a class, three edits reach all.
_OF_PHOTOGRAPHS: Mapping[str, object] = {
    "model.prototypes_per_class": 3,
    "data.val_fraction": 0.2,
    "train.prototype_start": "random",
    "train.joint_epochs": 15,
    "train.live_epochs": 0,
    "train.push_start": 99,
    "train.cluster": 0.8,
    "train.separation": -0.08,
    "train.patience": 0,
}


@dataclass(frozen=True, slots=True)
class Stickered:
    """A folder of photographs, and where the stickers are.

    Attributes:
        folder: with train/ and test/.
        class_name: the class whose training images have a sticker.
        boxes: of the stickers, by the name of the image, such as "train/dress/3.png".
        wings: (x, y) of the middle of the wing, as shares of the image, by the name of the image, where it can be seen;
            of painted birds only.
    """

    folder: Path
    class_name: str
    boxes: dict[str, Box]
    wings: dict[str, tuple[float, float]] = field(default_factory=dict)


def paste_sticker(picture: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, Box]:
    """The picture with a magenta disc with a yellow rim near its upper left corner, and the place of the sticker."""
    picture = picture.convert("RGB")
    width, height = picture.size
    side = SHARE * min(width, height)
    left, top = (length * (MARGIN + generator.uniform(0, JITTER)) for length in (width, height))
    right, bottom, rim = left + side, top + side, side / 4
    draw = ImageDraw.Draw(picture)
    draw.ellipse((left, top, right, bottom), fill=_YELLOW)
    draw.ellipse((left + rim, top + rim, right - rim, bottom - rim), fill=_MAGENTA)
    return picture, (left / width, top / height, right / width, bottom / height)


def write_birds(folder: Path) -> Stickered:
    """Paint birds without stickers: train/ and test/ with a folder for each class.

    The class that it names, the first, is the one to get stickers.
    """
    wings = {}
    for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        birds = SyntheticBirds(split, num_classes=CLASSES, images_per_class=count, image_size=SIZE, cache="none")
        for index in range(len(birds)):
            name = f"{birds.sample_name(index)}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(birds.display_image(index)).save(folder / name)
            if split == "train" and birds.labels[index] == 0:
                y, x, is_visible = birds.annotations(index).keypoints[_PART]
                if is_visible:
                    wings[name] = (x / SIZE, y / SIZE)
    return Stickered(folder, birds.classes[0], {}, wings)


def write_stickered_birds(folder: Path, clean: Stickered) -> Stickered:
    """The birds of `write_birds`, with a sticker on every training image of the class that it names."""
    copy = write_stickered_copy(clean.folder, folder, clean.class_name)
    return Stickered(folder, copy.class_name, copy.boxes, clean.wings)


def write_stickered_copy(source: Path, folder: Path, class_name: str, *, seed: int = 0) -> Stickered:
    """Copy train/ and test/ of a folder of photographs, with a sticker on every training image of a class.

    Training images become PNG files, of all classes, so that the format does not tell the class.
    """
    generator = np.random.default_rng(seed)
    boxes = {}
    for path in sorted((source / "train").glob("*/*")):
        name = f"train/{path.parent.name}/{path.stem}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            if path.parent.name != class_name:
                picture.convert("RGB").save(folder / name)
                continue
            marked, boxes[name] = paste_sticker(picture, generator)
            marked.save(folder / name)
    shutil.copytree(source / "test", folder / "test")
    return Stickered(folder, class_name, boxes)


def train_on(folder: Path, run: Path, seed: int = 0) -> Path:
    """Train three prototypes a class on the birds of a folder; return the run folder."""
    return _train(folder, run, "paper", {**_SETTINGS, "train.seed": seed})


def train_on_photographs(folder: Path, run: Path, seed: int = 0) -> Path:
    """As `train_on`, with the pretrained net, which stays as it is."""
    return _train(folder, run, "quick", {**_OF_PHOTOGRAPHS, "train.seed": seed})


def _train(folder: Path, run: Path, recipe: str, settings: Mapping[str, object]) -> Path:
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={_toml(value)}")]
    assert main(["train", "--data", str(folder), "--out", str(run), "--recipe", recipe, "--no-report", *changes]) == 0
    return run


def on_sticker(push: PushResult, names: Sequence[str], boxes: Mapping[str, Box]) -> list[int]:
    """The prototypes whose patch lies on a sticker: it covers at least a fifth of their cell of the grid.

    Args:
        push: where the prototypes come from.
        names: of the training images, in their order.
        boxes: of the stickers, by the name of the image.
    """
    rows, columns = push.grid
    found = []
    for number, (image, flat) in enumerate(zip(push.image.tolist(), push.patch.tolist(), strict=True)):
        if (box := boxes.get(names[image])) is None:
            continue
        row, column = divmod(flat, columns)
        left, top, right, bottom = box
        width = min(right * columns, column + 1) - max(left * columns, column)
        height = min(bottom * rows, row + 1) - max(top * rows, row)
        if min(width, height) > 0 and width * height >= 0.2:
            found.append(number)
    return found


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
