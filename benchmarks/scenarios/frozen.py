"""Training of a head on a frozen backbone's features: `python -m benchmarks frozen --data DIR`.

The backbone runs over the training images once, into two stores, in float32 and in bfloat16. Then take turns, each a
step of training on a batch: ours from either store, as `protokern train` does it; the plain eager head on the same
features, which it has in memory as the backbone gave them, channels first, with the original's formula and losses; the
same with channels last; and our head with the backbone run on every batch of images, which are decoded beforehand.
First the loss of one batch with the same weights is compared. Without --data the images are synthetic birds.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import FROZEN, append_rows
from benchmarks.pages.scenario_rows import FrozenRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import FROZEN_RATIO, judged
from benchmarks.scenarios.scenario import begin, columns, evenly, flags, photo_flags, photo_model, time_columns
from protokern.config.train import PruneConfig, TrainConfig
from protokern.data import ImageDataset, open_splits
from protokern.features import FeatureStore, FeatureWriter, Fingerprint, Precision
from protokern.inputs.loaders import StoredImages, shuffled_batches
from protokern.losses import last_layer_l1
from protokern.models import ProtoPNet
from protokern.train.loop import train_epoch
from protokern.train.stages import Step
from protokern.train.state import Job, TrainingRun

OURS: dict[str, Precision] = {"store bf16": "bf16", "store fp32": "fp32"}
EAGER = {"eager": False, "eager channels last": True}
BACKBONE = "backbone"
PROVIDERS = (*OURS, *EAGER, BACKBONE)
STEPS = 4  # in a sample, of those without the backbone
# Of the loss of one batch, against the eager head in float32.
TOLERANCES = {"store fp32": 1e-4, "eager channels last": 1e-4, "store bf16": 2e-2, BACKBONE: 1e-3}
Batch = tuple[Tensor, Tensor]


class Chosen:
    """Some images of a data set, as training takes them, without augmentation, kept decoded."""

    def __init__(self, images: ImageDataset, index: Sequence[int]) -> None:
        self._images, self._index = images, list(index)
        self.labels = [images.labels[one] for one in index]
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index not in self._kept:
            self._kept[index] = self._images[self._index[index]][0]
        return self._kept[index], self.labels[index]

    def sample_name(self, index: int) -> str:
        return self._images.sample_name(self._index[index])

    def source_path(self, index: int) -> Path | None:
        return self._images.source_path(self._index[index])

    def transform(self) -> str:
        return self._images.transform()

    def set_epoch(self, epoch: int) -> None:
        """Nothing: no augmentation."""


def write_stores(folder: Path, backbone: nn.Module, images: Chosen) -> dict[str, FeatureStore]:
    """One store for each of ours; the backbone runs once."""
    fingerprint = Fingerprint(weights="of this run", transform=images.transform(), files="of this run")
    with (
        FeatureWriter(folder / "bf16", fingerprint, images=len(images), precision="bf16") as half,
        FeatureWriter(folder / "fp32", fingerprint, images=len(images), precision="fp32") as whole,
    ):
        for index in half.missing():
            batch = torch.stack([images[one][0] for one in index])
            labels = torch.tensor([images.labels[one] for one in index])
            with torch.no_grad():
                features = backbone(batch.contiguous(memory_format=torch.channels_last))
            for writer in (half, whole):
                writer.append(features, labels)
    return {name: FeatureStore.open(folder / precision) for name, precision in OURS.items()}


class EagerHead:
    """A head as one writes it with PyTorch alone, on features in memory; the weights are copies of a model's."""

    def __init__(self, model: ProtoPNet, features: Tensor, labels: Tensor, config: TrainConfig) -> None:
        self.features, self.labels, self.config = features, labels, config
        self.add_on_layers = copy.deepcopy(model.add_on_layers)
        self.last_layer = copy.deepcopy(model.last_layer)
        self.prototypes = nn.Parameter(model.prototype_layer.prototypes.detach().clone()[..., None, None])
        self.ones = torch.ones_like(self.prototypes)
        self.identity = model.class_identity
        self.optimizer = torch.optim.Adam(
            [
                {
                    "params": self.add_on_layers.parameters(),
                    "lr": config.add_on_lr,
                    "weight_decay": config.weight_decay,
                },
                {"params": [self.prototypes], "lr": config.prototype_lr},
            ]
        )

    def loss(self, index: Sequence[int]) -> Tensor:
        """The original's loss of a batch: distances of all patches by convolutions, then their smallest."""
        config, labels = self.config, self.labels[index]
        maps = self.add_on_layers(self.features[index])  # (B, D, H, W)
        squares = F.conv2d(maps**2, self.ones)
        products = F.conv2d(maps, self.prototypes)
        distances = F.relu(squares - 2 * products + (self.prototypes**2).sum(dim=(1, 2, 3))[:, None, None])
        nearest = -F.max_pool2d(-distances, kernel_size=distances.shape[2:]).flatten(1)  # (B, P)
        logits = self.last_layer(torch.log((nearest + 1) / (nearest + 1e-4)))
        largest, is_own = float(maps.shape[1]), self.identity[:, labels].T  # (B, P)
        cluster = (largest - ((largest - nearest) * is_own).amax(dim=1)).mean()
        separation = (largest - ((largest - nearest) * (1 - is_own)).amax(dim=1)).mean()
        l1 = last_layer_l1(self.last_layer.weight, self.identity)
        terms = config.cluster * cluster + config.separation * separation + config.l1 * l1
        return config.cross_entropy * F.cross_entropy(logits, labels) + terms

    def step(self, index: Sequence[int]) -> None:
        loss = self.loss(index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class OurHead:
    """What `protokern train` does in a warm epoch, on features of a store or on images."""

    def __init__(self, model: ProtoPNet, dataset: Any, config: TrainConfig) -> None:
        self.model = copy.deepcopy(model)
        splits: Any = SimpleNamespace(train=dataset)
        job = Job(
            folder=Path(), model=self.model, splits=splits, classes=(), config={}, train=config, prune=PruneConfig()
        )
        self.run = TrainingRun(job)
        self.run.begin_epoch("warm")

    def steps(self, batches: Sequence[list[int]]) -> float:
        """Train on these batches; the loss of the last one."""
        self.run.progress.finish_step("warm", 0.0, (), 0)  # of the batches before; a step is all of these
        return [event.loss for event in train_epoch(self.run, Step("warm", 0), batches)][-1]


def make_heads(model: ProtoPNet, stores: dict[str, FeatureStore], images: Chosen, batch_size: int) -> dict[str, Any]:
    config = TrainConfig(batch_size=batch_size, backbone="frozen")
    features, labels = (torch.cat(parts) for parts in zip(*stores["store fp32"].batches(256), strict=True))
    heads: dict[str, Any] = {}
    for name, precision in OURS.items():
        ours = TrainConfig(batch_size=batch_size, backbone="frozen", precision=precision)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        heads[name] = OurHead(model, StoredImages(stores[name], images, dtype), ours)
    for name, is_last in EAGER.items():
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        heads[name] = EagerHead(model, features.contiguous(memory_format=memory_format), labels, config)
    heads[BACKBONE] = OurHead(model, images, TrainConfig(batch_size=batch_size))
    return heads


def losses(heads: dict[str, Any], batch: list[int]) -> dict[str, float]:
    """Of one batch, before anything is learnt from it."""
    return {
        name: head.steps([batch]) if isinstance(head, OurHead) else float(head.loss(batch).detach())
        for name, head in heads.items()
    }


def check(found: dict[str, float]) -> None:
    """Raise a RuntimeError unless all say what the eager head says, up to rounding."""
    wanted = found["eager"]
    for name, tolerance in TOLERANCES.items():
        if not abs(found[name] - wanted) <= tolerance * abs(wanted):
            raise RuntimeError(f"{name}: must have the loss {wanted:g} of the eager head; got {found[name]:g}.")


def make_call(head: Any, batches: Iterator[list[int]], steps: int) -> Callable[[], None]:
    def call() -> None:
        chosen = list(itertools.islice(batches, steps))
        if isinstance(head, OurHead):
            head.steps(chosen)
        else:
            for batch in chosen:
                head.step(batch)

    return call


def run(machine: Machine, arguments: argparse.Namespace) -> list[FrozenRow]:
    """Write the stores, check, and time all providers."""
    splits = open_splits(arguments.data, image_size=arguments.image_size, augmentation="none")
    images = Chosen(splits.push, evenly(len(splits.push), arguments.limit))
    model = photo_model(arguments, len(splits.classes))
    backbone = model.backbone.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        stores = write_stores(Path(folder), backbone, images)
        heads = make_heads(model, stores, images, arguments.batch_size)
        batches = shuffled_batches(len(images), arguments.batch_size, 0, 0)
        check(losses(heads, batches[0]))
        order = itertools.cycle(batches)
        steps = {name: 1 if name == BACKBONE else STEPS for name in heads}
        calls = {
            name: Timed(call=make_call(head, order, steps[name]), parts=steps[name]) for name, head in heads.items()
        }
        with watch_others() as others:
            timings = measure(calls, seconds=arguments.seconds)
    channels, side, _ = stores["store fp32"].shape
    return [
        FrozenRow(
            **columns(machine, others),
            provider=name,
            backbone=arguments.backbone,
            image_size=arguments.image_size,
            channels=channels,
            side=side,
            prototypes=model.num_prototypes,
            batch=arguments.batch_size,
            **time_columns(timing, digits=3),
            images_per_s=round(arguments.batch_size / timing.p50 * 1e3, 1),
            faster_than_eager=round(timings["eager"].p50 / timing.p50, 3),
            faster_than_backbone=round(timings[BACKBONE].p50 / timing.p50, 3),
        )
        for name, timing in timings.items()
    ]


def show(rows: Sequence[FrozenRow]) -> None:
    first = rows[0]
    what = f"{first.backbone}, {first.channels} x {first.side} x {first.side}, {first.prototypes} prototypes"
    print(f"\n{what}{not_quiet(first)}")
    for row in rows:
        against = f"{row.faster_than_eager:7.2f} x eager {row.faster_than_backbone:8.1f} x backbone"
        print(f"{row.provider:22}{row.p50_ms:10.2f} ms {row.images_per_s:10.0f} images/s {against}")
    best = max(row.faster_than_eager for row in rows if row.provider in OURS)
    print(judged(f"{best:.2f} x the eager head", f">= {FROZEN_RATIO:g} x", best >= FROZEN_RATIO))


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("frozen", __doc__, FROZEN)
    photo_flags(parser)
    parser.add_argument("--batch-size", type=int, default=80)
    parser.add_argument("--limit", type=int, default=1600, help="images, evenly spaced; 1,600 make stores of 307 MB")
    parser.add_argument("--seconds", type=float, default=40.0, help="about how long is timed")
    arguments = parser.parse_args(argv)
    machine = begin(arguments, "nn/test_rows.py", "train/test_stored.py", "features/test_store.py")
    rows = run(machine, arguments)
    show(rows)
    append_rows(arguments.out, rows)
    return 0
