"""A push over a folder of photographs against the bare backbone: `python -m benchmarks push --data DIR`.

Both walk over the same images, decoded beforehand, so that the difference is the search alone. Passes of the two kinds
alternate, and each round gives one ratio. Without --data the images are synthetic birds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.ops.machine import describe, settle, watch_others
from benchmarks.pages.results import PUSH, append_rows
from benchmarks.pages.rows import PushRow
from benchmarks.pages.targets import PUSH_RATIO
from protokern.backbones import build_backbone
from protokern.data import ImageDataset, open_splits
from protokern.models import ProtoPNet
from protokern.push import push_prototypes

Batches = list[tuple[Tensor, Tensor]]


def load_batches(images: ImageDataset, batch_size: int, limit: int | None) -> Batches:
    """All images, or `limit` of them evenly spaced, decoded, in batches of (B, 3, Y, X) and (B,) labels."""
    count = len(images) if limit is None else min(limit, len(images))
    chosen = [index * len(images) // count for index in range(count)]
    batches = []
    for start in range(0, count, batch_size):
        items = [images[index] for index in chosen[start : start + batch_size]]
        batches.append((torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])))
    return batches


def bare_pass(backbone: nn.Module, batches: Batches) -> None:
    with torch.no_grad():
        for images, _ in batches:
            backbone(images)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_rounds(model: ProtoPNet, batches: Batches, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of every backbone pass and of every push; which of the two comes first alternates."""
    with torch.no_grad():
        model(batches[0][0])
    bare: list[float] = []
    push: list[float] = []
    for index in range(rounds):
        if index % 2 == 0:
            bare.append(seconds(lambda: bare_pass(model.backbone, batches)))
        push.append(seconds(lambda: push_prototypes(model, batches)))
        if index % 2 == 1:
            bare.append(seconds(lambda: bare_pass(model.backbone, batches)))
    return bare, push


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks push", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, square")
    parser.add_argument("--prototypes-per-class", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=PUSH, help="CSV file that the row is added to")
    arguments = parser.parse_args(argv)
    settle(arguments.settle)
    machine = describe()
    splits = open_splits(arguments.data, image_size=arguments.image_size)
    batches = load_batches(splits.push, arguments.batch_size, arguments.limit)
    model = ProtoPNet(
        build_backbone(arguments.backbone, weights=arguments.weights),
        len(splits.classes),
        arguments.prototypes_per_class,
        image_size=arguments.image_size,
    ).eval()
    with watch_others() as others:
        bare, push = time_rounds(model, batches, arguments.rounds)
    ratio = statistics.median(with_push / without for with_push, without in zip(push, bare, strict=True))
    row = PushRow(
        **asdict(machine),
        others=round(others.cores, 2),
        backbone=arguments.backbone,
        images=sum(len(labels) for _, labels in batches),
        image_size=arguments.image_size,
        prototypes=model.num_prototypes,
        threads=torch.get_num_threads(),
        rounds=arguments.rounds,
        backbone_s=round(statistics.median(bare), 3),
        push_s=round(statistics.median(push), 3),
        ratio=round(ratio, 4),
    )
    verdict = "reached" if row.ratio <= PUSH_RATIO else "MISSED"
    print(f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes")
    print(f"bare backbone {row.backbone_s:.2f} s, push {row.push_s:.2f} s")
    print(f"ratio {row.ratio:.3f}, target <= {PUSH_RATIO}: {verdict}")
    append_rows(arguments.out, [row])
    return 0
