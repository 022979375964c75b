"""Sizes that follow the data: what the recipe `quick` changes for few or many photographs and classes.

Between 300 and 10,000 training images with six or more in a class everything is as in quick.toml; no test image has
chosen anything here.

| what | rule |
| --- | --- |
| prototypes of a class | 3, but at most one for every two training images of a class on average, and at least 1 |
| weight of a prototype for its class | 30 / prototypes of a class, so that they make a logit of up to 30 together |
| images in a step | 64, but at most a quarter of the training images, as a power of two of at least 8 |
| epochs | 15; more, so that there are 75 steps; fewer, so that 150,000 images are seen, and at least 3 |
| share held out for validation | 0.05, but 1,000 images at most |
"""

from __future__ import annotations

from typing import Any

SIZED = "quick"  # the recipe whose sizes follow the data
# The settings that do, by table.
SIZED_KEYS = {
    "model": ("prototypes_per_class", "correct_class_weight"),
    "data": ("val_fraction",),
    "train": ("batch_size", "live_epochs"),
}

MOST_PROTOTYPES = 3
IMAGES_A_PROTOTYPE = 2
LARGEST_LOGIT = 30.0
SMALLEST_BATCH, LARGEST_BATCH = 8, 64
EPOCHS, FEWEST_EPOCHS = 15, 3
FEWEST_STEPS = 75
MOST_IMAGES_SEEN = 150_000
VAL_FRACTION, MOST_VAL_IMAGES = 0.05, 1_000


def sizes_for(images: int, classes: int) -> dict[str, dict[str, Any]]:
    """The settings that follow the data, as tables that go over those of the recipe.

    Args:
        images: number of images to learn from, before some are held out for validation; at least 1.
        classes: number of classes, at least 1.
    """
    prototypes = min(MOST_PROTOTYPES, max(1, images // classes // IMAGES_A_PROTOTYPE))
    batch = LARGEST_BATCH
    while batch > SMALLEST_BATCH and 4 * batch > images:
        batch //= 2
    steps = -(-images // batch)
    epochs = max(EPOCHS, -(-FEWEST_STEPS // steps))
    if epochs * images > MOST_IMAGES_SEEN:
        epochs = max(FEWEST_EPOCHS, MOST_IMAGES_SEEN // images)
    return {
        "model": {"prototypes_per_class": prototypes, "correct_class_weight": LARGEST_LOGIT / prototypes},
        "data": {"val_fraction": round(min(VAL_FRACTION, MOST_VAL_IMAGES / images), 6)},
        "train": {"batch_size": batch, "live_epochs": epochs},
    }
