"""Prototypes that start at patches of their class, and live from there."""

from __future__ import annotations

import itertools

import pytest
import torch

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError, TrainingError
from protokern.models import ProtoPNet
from protokern.models.base import vectors_of
from protokern.prototype_start import choose_images, find_starts
from protokern.ranks import SINGLE
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import StageRecord
from protokern.train.events import BatchDone
from protokern.train.head_stages import push_step
from protokern.train.loop import train

from .toy import NET, pool_config, toy_config, toy_run

FROM_PATCHES = {"prototype_start": "patches", "warm_epochs": 0, "joint_epochs": 0, "live_epochs": 2, "live_lr": 3e-2}
COSINE = {**NET, "metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}
CONFIGS = {
    "protopnet": toy_config(**FROM_PATCHES),
    "salient": toy_config(**FROM_PATCHES, model={**COSINE, "salience": 1.0}, backbone="frozen"),
    "cells": toy_config(**FROM_PATCHES, model={**COSINE, "prototype_size": [2, 2]}),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def sources(run) -> list[tuple[int, int]]:
    return list(zip(run.push.image.tolist(), run.push.patch.tolist(), strict=True))


def weights(run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def net(maps: torch.Tensor, prototypes_per_class: int, metric: str = "sqeuclidean") -> ProtoPNet:
    """A net whose prototypes look at the maps as they are."""
    model = ProtoPNet(
        torch.nn.Conv2d(maps.shape[1], maps.shape[1], 1),
        2,
        prototypes_per_class=prototypes_per_class,
        prototype_dim=maps.shape[1],
        metric=metric,
        activation="cosine" if metric == "cosine" else "log",
        add_on_layers="linear",
        image_size=8,
        in_channels=maps.shape[1],
    )
    return model.eval()


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_each_group_of_patches_gets_a_prototype(metric: str) -> None:
    generator = torch.Generator().manual_seed(3)
    groups = 10 * torch.eye(6)  # three for each class
    maps = torch.empty(8, 6, 3, 3)
    kind = torch.empty(8, 3, 3, dtype=torch.int64)
    for image, row, column in itertools.product(range(8), range(3), range(3)):
        kind[image, row, column] = 3 * (image % 2) + (image + row + column) % 3
        maps[image, :, row, column] = groups[kind[image, row, column]] + torch.randn(6, generator=generator)
    labels = torch.arange(8) % 2

    push = find_starts(net(maps, 3, metric), [(maps, labels)], 0, range(8), 0, SINGLE)

    found = [int(kind[image].flatten()[patch]) for image, patch in zip(push.image, push.patch, strict=True)]
    assert sorted(found[:3]) == [0, 1, 2]
    assert sorted(found[3:]) == [3, 4, 5]
    assert push.grid == (3, 3)


def test_no_two_prototypes_get_one_patch_even_where_all_patches_are_alike() -> None:
    maps = torch.ones(2, 4, 2, 2)
    push = find_starts(net(maps, 4), [(maps, torch.tensor([0, 1]))], 0, range(2), 0, SINGLE)
    assert sorted(push.patch[:4].tolist()) == [0, 1, 2, 3]
    assert push.image.tolist() == [0] * 4 + [1] * 4


def test_patches_that_are_not_finite_start_nothing() -> None:
    maps = torch.rand(2, 4, 2, 2)
    maps[0, 0, 0, 0] = torch.nan
    find_starts(net(maps, 3), [(maps, torch.tensor([0, 1]))], 0, range(2), 0, SINGLE)
    with pytest.raises(TrainingError, match="prototype_start: must find 4 patches of finite features in class 0"):
        find_starts(net(maps, 4), [(maps, torch.tensor([0, 1]))], 0, range(2), 0, SINGLE)


def test_every_class_gives_some_of_its_images() -> None:
    labels = [0] * 500 + [1] * 3
    chosen = choose_images(labels, 2, seed=0)
    assert chosen == sorted(set(chosen))
    assert [sum(labels[one] == k for one in chosen) for k in (0, 1)] == [300, 3]
    assert choose_images(labels, 2, seed=1) != chosen
    assert len(choose_images(labels, 1000, seed=0)) == 20 + 3


@EVERY_CONFIG
def test_prototypes_are_distinct_patches_of_their_class_from_first_to_last(config, tmp_path) -> None:
    run = toy_run(tmp_path, config)
    records = [record for record in train(run) if isinstance(record, StageRecord)]
    assert [record.stage for record in records] == ["start", "live", "last_layer"]
    assert len(set(sources(run))) == run.model.num_prototypes
    own = run.model.class_identity.argmax(dim=1)
    assert [run.job.splits.push.labels[image] for image, _ in sources(run)] == own.tolist()
    before = weights(run)
    push_step(run)
    assert torch.equal(vectors_of(run.model), before["prototype_layer.prototypes"])


@EVERY_CONFIG
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(config, tmp_path) -> None:
    whole = toy_run(tmp_path / "whole", config)
    list(train(whole))
    run = toy_run(tmp_path / "stopped", config)
    batches = itertools.count()
    for record in train(run):
        if isinstance(record, BatchDone) and next(batches) == 3:
            break
    stopped = toy_run(tmp_path / "stopped", config)
    stopped.resume(read_checkpoint(find_resumable(stopped.job.folder)))
    list(train(stopped))
    assert sources(stopped) == sources(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(stopped)[name], value), name


def test_a_pool_has_no_classes_to_start_in(tmp_path) -> None:
    run = toy_run(tmp_path, pool_config(prototype_start="patches"))
    with pytest.raises(TrainingError, match="prototype_start"):
        list(train(run))


def test_without_epochs_there_is_nothing_to_learn() -> None:
    for settings in ({"live_epochs": 2}, {"prototype_start": "patches"}):
        with pytest.raises((ValueError, ConfigError), match="joint_epochs: must be at least 1"):
            TrainConfig(warm_epochs=0, joint_epochs=0, **settings)
