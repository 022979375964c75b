"""Importance over photographs against its parts alone: `python -m benchmarks importance --data DIR`.

The parts are the bare backbone over the images, once for the originals and once for each of the six modifications, and
the modifications themselves, with as many threads. All walk over the same images, decoded beforehand; the kinds
alternate, and each round gives one ratio. Without --data the images are synthetic birds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.ops.machine import describe, settle, watch_others
from benchmarks.pages.results import IMPORTANCE, append_rows
from benchmarks.pages.rows import ImportanceRow
from benchmarks.pages.targets import IMPORTANCE_RATIO
from protokern.backbones import build_backbone
from protokern.data import BirdCounts, ImageDataset, open_splits
from protokern.data.decode import pixels_to_tensor
from protokern.explain.importance import importance, modification_threads
from protokern.explain.modifications import MODIFICATIONS, modify
from protokern.models import ProtoPNet

Images = list[np.ndarray]


@dataclass(frozen=True)
class Round:
    """Seconds of the parts and of the whole."""

    backbone: float
    modifications: float
    importance: float

    @property
    def ratio(self) -> float:
        return self.importance / (self.backbone + self.modifications)


def load_images(dataset: ImageDataset, limit: int | None) -> Images:
    """All images, or `limit` of them evenly spaced: (Y, X, 3) uint8."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    return [dataset.display_image(index * len(dataset) // count) for index in range(count)]


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


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_rounds(model: ProtoPNet, images: Images, batch_size: int, rounds: int) -> list[Round]:
    """Time the parts and the whole; which of them comes first alternates."""
    batches = [pixels_to_tensor(np.stack(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    importance(model, images[:batch_size], batch_size=batch_size)
    parts = {
        "backbone": lambda: bare_passes(model.backbone, batches),
        "modifications": lambda: modify_all(images),
        "importance": lambda: importance(model, images, batch_size=batch_size),
    }
    measured = []
    for number in range(rounds):
        order = list(parts) if number % 2 == 0 else list(parts)[::-1]
        measured.append(Round(**{name: seconds(parts[name]) for name in order}))
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks importance", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/ and test/<class>/*.jpg; the test images are used")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, square")
    parser.add_argument("--prototypes-per-class", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=IMPORTANCE, help="CSV file that the row is added to")
    arguments = parser.parse_args(argv)
    settle(arguments.settle)
    machine = describe()
    splits = open_splits(arguments.data, image_size=arguments.image_size, birds=BirdCounts(train_per_class=1))
    images = load_images(splits.test, arguments.limit)
    torch.manual_seed(0)
    model = ProtoPNet(
        build_backbone(arguments.backbone, weights=arguments.weights),
        len(splits.classes),
        arguments.prototypes_per_class,
        image_size=arguments.image_size,
    ).eval()
    with watch_others() as others:
        rounds = time_rounds(model, images, arguments.batch_size, arguments.rounds)
    row = ImportanceRow(
        **asdict(machine),
        others=round(others.cores, 2),
        backbone=arguments.backbone,
        images=len(images),
        image_size=arguments.image_size,
        prototypes=model.num_prototypes,
        modifications=len(MODIFICATIONS),
        batch_size=arguments.batch_size,
        threads=torch.get_num_threads(),
        rounds=arguments.rounds,
        backbone_s=round(statistics.median(one.backbone for one in rounds), 3),
        modifications_s=round(statistics.median(one.modifications for one in rounds), 3),
        importance_s=round(statistics.median(one.importance for one in rounds), 3),
        ratio=round(statistics.median(one.ratio for one in rounds), 4),
    )
    verdict = "reached" if row.ratio <= IMPORTANCE_RATIO else "MISSED"
    print(f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes")
    print(
        f"{1 + row.modifications} bare passes {row.backbone_s:.2f} s, modifications {row.modifications_s:.2f} s, "
        f"importance {row.importance_s:.2f} s"
    )
    print(f"ratio {row.ratio:.3f}, target <= {IMPORTANCE_RATIO}: {verdict}")
    append_rows(arguments.out, [row])
    return 0
