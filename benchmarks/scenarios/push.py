"""A push over a folder of photographs against the bare backbone: `python -m benchmarks push --data DIR`.

Both walk over the same images, decoded beforehand, so that the difference is the search alone. Passes of the two kinds
alternate, and each round gives one ratio. Without --data the images are synthetic birds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import PUSH, append_rows
from benchmarks.pages.scenario_rows import PushRow
from benchmarks.pages.targets import PUSH_RATIO, judged
from benchmarks.scenarios.scenario import begin, columns, evenly, flags, in_turns, photo_flags, photo_model
from protokern.data import ImageDataset, open_splits
from protokern.models import ProtoPNet
from protokern.push import push_prototypes

Batches = list[tuple[Tensor, Tensor]]


def load_batches(images: ImageDataset, batch_size: int, limit: int | None) -> Batches:
    """All images, or `limit` of them evenly spaced, decoded, in batches of (B, 3, Y, X) and (B,) labels."""
    chosen = evenly(len(images), limit)
    batches = []
    for start in range(0, len(chosen), batch_size):
        items = [images[index] for index in chosen[start : start + batch_size]]
        batches.append((torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])))
    return batches


def bare_pass(backbone: nn.Module, batches: Batches) -> None:
    with torch.no_grad():
        for images, _ in batches:
            backbone(images)


def time_rounds(model: ProtoPNet, batches: Batches, rounds: int) -> dict[str, list[float]]:
    """Seconds of every backbone pass and of every push."""
    with torch.no_grad():
        model(batches[0][0])
    calls = {
        "backbone": lambda: bare_pass(model.backbone, batches),
        "push": lambda: push_prototypes(model, batches),
    }
    return in_turns(calls, rounds)


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("push", __doc__, PUSH)
    photo_flags(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    splits = open_splits(arguments.data, image_size=arguments.image_size)
    batches = load_batches(splits.push, arguments.batch_size, arguments.limit)
    model = photo_model(arguments, len(splits.classes))
    with watch_others() as others:
        taken = time_rounds(model, batches, arguments.rounds)
    bare, push = taken["backbone"], taken["push"]
    ratio = statistics.median(with_push / without for with_push, without in zip(push, bare, strict=True))
    row = PushRow(
        **columns(machine, others),
        backbone=arguments.backbone,
        images=sum(len(labels) for _, labels in batches),
        image_size=arguments.image_size,
        prototypes=model.num_prototypes,
        rounds=arguments.rounds,
        backbone_s=round(statistics.median(bare), 3),
        push_s=round(statistics.median(push), 3),
        ratio=round(ratio, 4),
    )
    print(f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes")
    print(f"bare backbone {row.backbone_s:.2f} s, push {row.push_s:.2f} s")
    print(judged(f"ratio {row.ratio:.3f}", f"<= {PUSH_RATIO}", row.ratio <= PUSH_RATIO))
    append_rows(arguments.out, [row])
    return 0
