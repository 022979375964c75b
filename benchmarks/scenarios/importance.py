"""Importance over photographs against its parts alone: `python -m benchmarks importance --data DIR`.

The parts are the bare backbone over the images, once for the originals and once for each of the six modifications, and
the modifications themselves, with as many threads. All walk over the same images, decoded beforehand; the kinds
alternate, and each round gives one ratio. Without --data the images are synthetic birds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import IMPORTANCE, append_rows
from benchmarks.pages.scenario_rows import ImportanceRow
from benchmarks.pages.targets import IMPORTANCE_RATIO, judged
from benchmarks.scenarios.scenario import begin, columns, evenly, flags, in_turns, photo_flags, photo_model
from protokern.data import BirdCounts, ImageDataset, open_splits
from protokern.data.decode import pixels_to_tensor
from protokern.explain.importance import importance, modification_threads
from protokern.explain.modifications import MODIFICATIONS, modify
from protokern.models import ProtoPNet

Images = list[np.ndarray]


def load_images(dataset: ImageDataset, limit: int | None) -> Images:
    """All images, or `limit` of them evenly spaced: (Y, X, 3) uint8."""
    return [dataset.display_image(index) for index in evenly(len(dataset), limit)]


def bare_passes(backbone: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for _ in range(1 + len(MODIFICATIONS)):
            for batch in batches:
                backbone(batch)


def modify_all(images: Images) -> None:
    with modification_threads() as pool:
        for name, modification in MODIFICATIONS.items():
            for _ in pool.map(partial(modify, name=name, modification=modification), images):
                pass


def time_rounds(model: ProtoPNet, images: Images, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the parts and of the whole in each round."""
    batches = [pixels_to_tensor(np.stack(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    importance(model, images[:batch_size], batch_size=batch_size)
    calls = {
        "backbone": lambda: bare_passes(model.backbone, batches),
        "modifications": lambda: modify_all(images),
        "importance": lambda: importance(model, images, batch_size=batch_size),
    }
    return in_turns(calls, rounds)


def ratio(taken: Mapping[str, Sequence[float]]) -> float:
    """How many times as long as its parts the whole took: the median over the rounds."""
    parts = zip(taken["importance"], taken["backbone"], taken["modifications"], strict=True)
    return statistics.median(whole / (backbone + modifications) for whole, backbone, modifications in parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("importance", __doc__, IMPORTANCE)
    photo_flags(parser, "train/ and test/<class>/*.jpg, of which the test images are used")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    splits = open_splits(arguments.data, image_size=arguments.image_size, birds=BirdCounts(train_per_class=1))
    images = load_images(splits.test, arguments.limit)
    model = photo_model(arguments, len(splits.classes))
    with watch_others() as others:
        taken = time_rounds(model, images, arguments.batch_size, arguments.rounds)
    medians: dict[str, Any] = {f"{name}_s": round(statistics.median(each), 3) for name, each in taken.items()}
    row = ImportanceRow(
        **columns(machine, others),
        backbone=arguments.backbone,
        images=len(images),
        image_size=arguments.image_size,
        prototypes=model.num_prototypes,
        modifications=len(MODIFICATIONS),
        batch_size=arguments.batch_size,
        rounds=arguments.rounds,
        **medians,
        ratio=round(ratio(taken), 4),
    )
    print(f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes")
    print(
        f"{1 + row.modifications} bare passes {row.backbone_s:.2f} s, modifications {row.modifications_s:.2f} s, "
        f"importance {row.importance_s:.2f} s"
    )
    print(judged(f"ratio {row.ratio:.3f}", f"<= {IMPORTANCE_RATIO}", row.ratio <= IMPORTANCE_RATIO))
    append_rows(arguments.out, [row])
    return 0
