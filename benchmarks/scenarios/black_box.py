"""A black box with the backbone, images and budget of a recipe: `python -m benchmarks black-box CONFIG --data DIR`.

It shows what the prototypes cost: the net has one linear layer on the mean of the feature map instead of them. It
trains for the warm and joint epochs of the recipe, on the same batches and random views, with the same layers frozen.
The backbone has the recipe's rate, the linear layer a third of that of the add-on layers; both fall linearly in the
joint epochs, and batch norms keep their statistics. `--weights FILE` stores the backbone that it ends with, for
`model.weights` of a recipe: then the same net is explained by prototypes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.commit import git_sha
from benchmarks.ops.machine import cpu_name
from benchmarks.pages.accuracy import ACCURACY, AccuracyRow
from benchmarks.pages.results import append_rows
from protokern.backbones import build_backbone
from protokern.config.run import RunConfig, load_config, with_data
from protokern.data import ImageDataset, Splits
from protokern.inputs.loaders import ordered_loader, shuffled_batches, training_loader
from protokern.runs.data import open_data
from protokern.train.optimizers import hold_back

NAME = "black box"


class BlackBox(nn.Module):
    """Logits (B, K) of images (B, 3, Y, X): a linear layer on the mean of the backbone's map."""

    def __init__(self, config: RunConfig, splits: Splits) -> None:
        super().__init__()
        model = config.model
        self.backbone = build_backbone(
            model.backbone, weights=model.weights, in_channels=config.data.channels, stage=model.backbone_stage
        )
        self.backbone.to(memory_format=torch.channels_last).eval()
        hold_back(self.backbone, config.train)
        with torch.no_grad():
            image = splits.val[0][0]
            channels = self.backbone(image[None]).shape[1]
        self.head = nn.Linear(channels, len(splits.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, *, is_warm: bool = False) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_warm):
            maps = self.backbone(images.to(memory_format=torch.channels_last))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def learn(net: BlackBox, config: RunConfig, images: ImageDataset, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    """One epoch over the random views of the training images."""
    train = config.train
    is_warm = epoch < train.warm_epochs
    images.set_epoch(epoch)
    batches = shuffled_batches(len(images), train.batch_size, train.seed, epoch)
    for position, (views, labels) in enumerate(training_loader(images, batches, 0, epoch)):
        done = 0.0 if is_warm else (epoch - train.warm_epochs + position / len(batches)) / train.joint_epochs
        for group, rate in zip(
            optimizer.param_groups, (0.0 if is_warm else train.backbone_lr, train.add_on_lr / 3), strict=True
        ):
            group["lr"] = rate * (1 - done)
        optimizer.zero_grad()
        F.cross_entropy(net(views, is_warm=is_warm), labels).backward()
        optimizer.step()


def accuracy(net: BlackBox, images: ImageDataset, batch_size: int) -> float:
    """Percent of right answers."""
    right = 0
    with torch.inference_mode():
        for batch, labels in ordered_loader(images, batch_size, 0):
            right += int((net(batch).argmax(dim=1) == labels).sum())
    return 100 * right / len(images)


def train_black_box(config: RunConfig, splits: Splits) -> tuple[BlackBox, AccuracyRow]:
    """The black box after the recipe's warm and joint epochs, and its row."""
    train = config.train
    torch.manual_seed(train.seed)
    net = BlackBox(config, splits)
    learning = [one for one in net.backbone.parameters() if one.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": learning, "weight_decay": train.weight_decay},
        {"params": list(net.head.parameters())},
    ]
    optimizer = torch.optim.Adam(groups)
    splits.train.preload()
    started = time.perf_counter()
    for epoch in range(train.warm_epochs + train.joint_epochs):
        learn(net, config, splits.train, epoch, optimizer)
        minutes = (time.perf_counter() - started) / 60
        print(f"epoch {epoch}: val {accuracy(net, splits.val, train.batch_size):.1f}%, {minutes:.1f} min", flush=True)
    row = AccuracyRow(
        config=NAME,
        data=Path(config.data.path).name if config.data.path else "synthetic birds",
        seed=train.seed,
        image_size=str(config.data.image_size),
        train_images=len(splits.train),
        test_images=len(splits.test),
        joint=round(accuracy(net, splits.test, train.batch_size), 2),
        hardening=None,
        push=None,
        last_layer=None,
        prune=None,
        pruned_last_layer=None,
        val=round(accuracy(net, splits.val, train.batch_size), 2),
        prototypes=0,
        minutes=round((time.perf_counter() - started) / 60, 1),
        git_sha=git_sha(),
        torch_version=torch.__version__,
        device=cpu_name(),
    )
    return net, row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks black-box", description=__doc__)
    parser.add_argument("config", type=Path, help="recipe whose backbone, images and epochs it has: a TOML file")
    parser.add_argument("--data", help="folder of photographs; default: that of the recipe")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="as of train")
    parser.add_argument("--weights", type=Path, help="file to write the backbone's weights to")
    parser.add_argument("--out", type=Path, default=ACCURACY, help="CSV file that the row is added to")
    arguments = parser.parse_args(argv)
    config = with_data(load_config(arguments.config, arguments.changes), arguments.data)
    if config.train.backbone == "frozen" or config.train.joint_epochs == 0:
        parser.error(
            f"CONFIG: must train its backbone in joint epochs; got {arguments.config}, which does not. "
            "Take a recipe that fine-tunes, such as examples/configs/clothing10.toml."
        )
    net, row = train_black_box(config, open_data(config))
    if arguments.weights is not None:
        torch.save(net.backbone.body.state_dict(), arguments.weights)
    print(f"test {row.joint:.1f}%, {row.minutes:.1f} min")
    append_rows(arguments.out, [row])
    return 0
