"""The runs that both revisions make, and the commands that they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SMALL = (
    "model.backbone=tiny",
    "model.prototype_dim=8",
    "data.image_size=32",
    "data.birds_classes=2",
    "data.birds_train=12",
    "data.birds_val=4",
    "data.birds_test=4",
    "train.batch_size=8",
    "train.warm_epochs=1",
    "train.joint_epochs=2",
    "train.last_layer_epochs=2",
)
# Together they take every stage, both models, both metrics, both solvers, both rules of pruning and both sources.
RUNS = {
    "protopnet": ("model.prototypes_per_class=2", "train.push_start=1", "train.push_every=1", "train.mixup=0.5"),
    "pool": (
        'model.name="protopool"',
        "model.num_prototypes=6",
        "model.slots_per_class=2",
        "model.schedule_epochs=2",
        "train.hardening_epochs=1",
        "prune.enabled=true",
    ),
    "frozen": ("train.backbone=frozen", "model.prototypes_per_class=2", "train.last_layer_solver=compat"),
    "pruned": (
        "model.prototypes_per_class=3",
        "prune.enabled=true",
        'prune.rule="needed"',
        "train.accumulation=2",
        "train.batch_norm=frozen",
    ),
    "live": (
        "model.prototypes_per_class=2",
        "model.metric=cosine",
        "model.activation=cosine",
        "model.add_on_layers=linear",
        "model.salience=1",
        "train.prototype_start=patches",
        "train.warm_epochs=0",
        "train.joint_epochs=0",
        "train.live_epochs=2",
    ),
}
PHOTOGRAPHS = ("pruned",)  # runs on a folder of class folders; the others draw birds
SELDOM = ("frozen", "live")  # runs that are given only the verbs in SHORT
# Backward passes after which such a run is asked to stop: two for each learning stage, which are timed before the work,
# and those of its batches.
STOPS = {"protopnet": 9, "pool": 14, "frozen": 8, "live": 4}
VERBS = (
    ("evaluate", "HERE/run"),
    ("evaluate", "HERE/run", "--split", "val", "--out", "HERE/numbers"),
    ("explain", "HERE/run", "HERE/run/prototypes/0000-image.png", "--out", "HERE/why"),
    ("importance", "HERE/run", "--modifications", "hue", "shape"),
    ("metrics", "HERE/run", "--images", "2", "--out", "HERE/measures"),
    ("neighbours", "HERE/run", "--out", "HERE/near", "--k", "2"),
    ("prototypes", "HERE/run", "--out", "HERE/grid", "--frame", "paper"),
    ("report", "HERE/run", "--pictures", "beside", "--neighbours", "2"),
    ("prune", "HERE/run", "--rule", "compat", "--set", "prune.threshold=1"),
    ("push", "HERE/run"),
    ("evaluate", "HERE/run"),
    ("train", "--out", "HERE/run", "--resume"),
)
SHORT = (0, 2, 5, 7, 9)  # of VERBS, where a run is of no other kind for the others
ASKED_BACK = (0, 2)  # what the base is asked about the runs of the tree at hand
RUN_VERBS = (*dict.fromkeys(words[0] for words in VERBS),)
WITHOUT_RUN = (
    (),
    ("--help",),
    *((verb, "--help") for verb in RUN_VERBS),
    ("fly",),
    ("evaluate", "nowhere"),
    ("train", "--out", "x", "--set", "train.epochs=3"),
    ("train", "--out", "x", "--set", 'model.metric="euclid"'),
    ("train", "--out", "x", "--set", "data.image_size=0"),
    ("train", "--out", "x", "--data", "nowhere"),
)


def write_photographs(root: Path) -> None:
    """Class folders alone, of eighteen photographs each: noisy stripes across or down."""
    rng = np.random.default_rng(0)
    for is_across, name in ((True, "across"), (False, "down")):
        (root / name).mkdir(parents=True)
        for number in range(18):
            wave = 90 * np.sin(np.arange(40) * rng.uniform(0.6, 1.2))
            pixels = 128 + (wave[:, None] if is_across else wave[None, :]) + rng.normal(0, 12, (40, 40))
            grey = np.clip(pixels, 0, 255).astype(np.uint8)
            Image.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=-1)).save(root / name / f"{number}.png")
