"""Live prototypes: always the patch that they are, with the gradient that this gives."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from typing import Any

import pytest
import torch
from torch import nn

from protokern.evaluate import Evaluation
from protokern.losses import Labels
from protokern.models.base import vectors_of
from protokern.nn import SalientLayers
from protokern.push import PushResult, push_prototypes
from protokern.ranks import SINGLE
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import EpochRecord, Notice, StageRecord, read_log
from protokern.runs.open import load_model
from protokern.train import loop as loop_module
from protokern.train.events import BatchDone
from protokern.train.head_stages import push_step
from protokern.train.live import LivePrototypes
from protokern.train.loop import train
from protokern.train.optimizers import freeze
from protokern.train.step import learn_from

from .toy import NET, pool_config, toy_config, toy_run, train_until_stopped

LIVE = {"joint_epochs": 1, "live_epochs": 2, "live_lr": 3e-2, "live_last_layer_lr": 1e-2}
CELLS = {**NET, "prototype_size": [2, 2], "metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}
SALIENT = {**NET, "metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}
CONFIGS = {
    "protopnet": toy_config(**LIVE),
    "cells": toy_config(**LIVE, model=CELLS, accumulation=2, batch_norm="frozen"),
    "stored": toy_config(**LIVE, backbone="frozen"),
    "protopool": pool_config(**LIVE, hardening_epochs=1),
}
SALIENT_CONFIG = toy_config(**LIVE, model=SALIENT)
WITH_SALIENT = pytest.mark.parametrize("config", [*CONFIGS.values(), SALIENT_CONFIG], ids=[*CONFIGS, "salient"])
EVERY_MODEL = pytest.mark.parametrize("name", ["protopnet", "cells", "protopool"])


class Maps:
    """Feature maps in place of images."""

    def __init__(self, maps: torch.Tensor, labels: list[int]) -> None:
        self.maps, self.labels = maps, labels

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.maps[index], self.labels[index]


def until_after(run, stage: str) -> list:
    """Train to the end of a stage, and no further."""
    records = []
    for record in train(run):
        records.append(record)
        if isinstance(record, StageRecord) and record.stage == stage:
            break
    return records


@pytest.fixture
def later_is_better(monkeypatch) -> None:
    """The validation finds every epoch better than the one before, and than any push."""
    accuracies = itertools.count(2.0)
    monkeypatch.setattr(loop_module, "evaluate", lambda *_, **__: Evaluation(next(accuracies), 1.0, 12))


def cut_out(model, push: PushResult, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The prototypes that are patches, and what the add-on layers make of whole maps there, one by one."""
    rows, columns = model.prototype_layer.prototype_size
    index = (push.image >= 0).nonzero().flatten()
    vectors = []
    with torch.no_grad():
        for prototype in index.tolist():
            row, column = divmod(int(push.patch[prototype]), push.grid[1])
            features = model.add_on_layers(maps[int(push.image[prototype])][None])
            vectors.append(features[0, :, row : row + rows, column : column + columns])
    return index, torch.stack(vectors).reshape(len(index), *model.prototype_layer.prototypes.shape[1:])


def backbone_maps(run) -> torch.Tensor:
    images = torch.stack([run.job.splits.push.images[index] for index in range(len(run.job.splits.push))])
    with torch.no_grad():
        return run.model.backbone(images)


@EVERY_MODEL
@pytest.mark.parametrize("add_on", ["alone", "salient", "with neighbours"])
def test_the_gradient_is_the_slope_of_the_loss_while_the_prototypes_follow(tmp_path, name, add_on) -> None:
    """Against central differences in float64; salient layers and a convolution of 3 x 3 look beyond the patch."""
    config = CONFIGS[name]
    model: Any = toy_run(tmp_path, config).model
    model.harden()
    model.backbone = nn.Identity()
    channels, dim = model.add_on_layers[0].in_channels, model.prototype_layer.prototype_dim
    if add_on == "with neighbours":
        model.add_on_layers = nn.Sequential(nn.Conv2d(channels, dim, 3, padding=1), nn.Sigmoid())
    elif add_on == "salient":
        model.add_on_layers = SalientLayers(*model.add_on_layers, power=1.5)
    model.double()
    maps = torch.rand(9, channels, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    labels = [index % 3 for index in range(9)]
    num_prototypes, width = model.num_prototypes, 5 - model.prototype_layer.prototype_size[1]
    # Prototype 1 is no patch; two prototypes come from one image.
    image = torch.tensor([3, -1, 8, 0, 3, 7])[:num_prototypes]
    patch = torch.where(image < 0, -1, torch.tensor([0, 0, 5, width * width - 1, 4, 2])[:num_prototypes])
    push = PushResult(image, patch, torch.zeros(num_prototypes), image % 3, (width, width))

    settings = dataclasses.replace(config.train, mixup=0.0, accumulation=2)
    freeze(model, "live", settings)
    live = LivePrototypes.read(
        model,
        Maps(maps, labels),
        push,
        batch_size=2,
        workers=0,
        channels_last=False,
    )
    vectors = live.write(model)
    index, expected = cut_out(model, push, maps)
    torch.testing.assert_close(model.prototype_layer.prototypes[index], expected)
    forward: Any = functools.partial(model, given="maps")
    learn_from(model, forward, maps, torch.tensor(labels), len(maps), settings, SINGLE)
    live.pass_on_gradient(model, vectors)

    def loss_at(shifts: list[torch.Tensor], share: float) -> float:
        before = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, shift in zip(parameters, shifts, strict=True):
                parameter += share * shift
            index, vectors = cut_out(model, push, maps)
            model.prototype_layer.prototypes[index] = vectors
            total, _ = model.loss(model(maps), Labels(torch.tensor(labels)), settings.coefficients)
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        return float(total)

    parameters = list(model.add_on_layers.parameters())
    generator = torch.Generator().manual_seed(6)
    for _ in range(4):
        shifts = [torch.randn(one.shape, dtype=one.dtype, generator=generator) for one in parameters]
        slope = (loss_at(shifts, 1e-6) - loss_at(shifts, -1e-6)) / 2e-6
        gradient = sum(float((one.grad * shift).sum()) for one, shift in zip(parameters, shifts, strict=True))
        assert gradient == pytest.approx(slope, rel=1e-6, abs=1e-8)
        assert abs(gradient) > 1e-3
    assert model.prototype_layer.prototypes.grad is None


@WITH_SALIENT
def test_every_prototype_is_its_patch_after_every_batch(tmp_path, config) -> None:
    """What training does to a patch alone, a convolution of the whole map does too, up to rounding."""
    run = toy_run(tmp_path, config)
    seen = 0
    for record in train(run):
        if isinstance(record, BatchDone) and record.stage == "live":
            seen += 1
            index, expected = cut_out(run.model, run.push, backbone_maps(run))
            torch.testing.assert_close(vectors_of(run.model).detach()[index], expected)
    assert seen == 2 * 4


@pytest.mark.usefixtures("later_is_better")
@WITH_SALIENT
def test_a_push_right_after_the_stage_changes_no_bit(tmp_path, config) -> None:
    run = toy_run(tmp_path, config)
    until_after(run, "push")
    pushed = vectors_of(run.model).detach().clone()
    until_after(run, "live")
    before = vectors_of(run.model).detach().clone()
    assert not torch.equal(before, pushed)
    sources = run.push
    push_step(run)
    assert torch.equal(vectors_of(run.model), before)
    found = run.push.image >= 0
    assert torch.equal(run.push.image, sources.image)
    assert torch.equal(run.push.patch, sources.patch)
    assert float(run.push.distance[found].max()) == 0


def test_a_push_of_the_saved_net_moves_no_prototype(tmp_path) -> None:
    """By another way: the checkpoint is loaded, and all images pass through the whole net in one batch."""
    run = toy_run(tmp_path, CONFIGS["protopnet"])
    list(train(run))
    model, _, _ = load_model(tmp_path)
    before = vectors_of(model).detach().clone()
    images: Any = run.job.splits.push
    push = push_prototypes(model, [(images.images, torch.tensor(images.labels))])
    assert torch.equal(push.image, run.push.image)
    assert torch.equal(push.patch, run.push.patch)
    torch.testing.assert_close(vectors_of(model).detach(), before)


@pytest.mark.usefixtures("later_is_better")
def test_only_add_on_layers_prototypes_and_last_layer_change(tmp_path) -> None:
    run = toy_run(tmp_path, CONFIGS["protopnet"])
    until_after(run, "push")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    until_after(run, "live")
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"add_on_layers", "prototype_layer", "last_layer"}
    assert {"add_on_layers.0.weight", "prototype_layer.prototypes", "last_layer.weight"} <= changed


@pytest.mark.usefixtures("later_is_better")
def test_a_last_layer_without_a_rate_stands_still(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(**{**LIVE, "live_last_layer_lr": 0.0}))
    until_after(run, "push")
    before = run.model.last_layer.weight.detach().clone()
    until_after(run, "live")
    assert torch.equal(run.model.last_layer.weight, before)


@pytest.mark.usefixtures("later_is_better")
def test_a_prototype_that_is_no_patch_keeps_its_vector(tmp_path) -> None:
    """One that no class of a pool uses."""
    run = toy_run(tmp_path, CONFIGS["protopool"])
    until_after(run, "push")
    free = (run.push.image < 0).nonzero().flatten().tolist()
    assert free, "the test needs a prototype without a patch"
    before = vectors_of(run.model).detach().clone()
    records = until_after(run, "live")
    after = vectors_of(run.model).detach()
    assert [index for index in range(len(after)) if torch.equal(after[index], before[index])] == free
    assert Notice(text=f"the prototypes {free} are no patch: they keep their vectors in the live stage") in records


@pytest.mark.parametrize(("accuracies", "best"), [([-1.0, -1.0], 0), ([2.0, 1.5], 1), ([1.5, 2.0], 2)])
def test_the_best_epoch_is_kept_and_the_push_is_the_first_to_beat(tmp_path, monkeypatch, accuracies, best) -> None:
    run = toy_run(tmp_path, CONFIGS["protopnet"])
    until_after(run, "push")
    weights = [run.model.add_on_layers[0].weight.detach().clone()]
    script = iter(accuracies)
    monkeypatch.setattr(loop_module, "evaluate", lambda *_, **__: Evaluation(next(script), 1.0, 12))
    for record in train(run):
        if isinstance(record, BatchDone) and record.stage == "live" and record.batch == record.batches:
            weights.append(run.model.add_on_layers[0].weight.detach().clone())
        if isinstance(record, StageRecord) and record.stage == "live":
            break
    assert record.details == {"best_epoch": best}
    assert len({weight.sum().item() for weight in weights}) == 3
    assert torch.equal(run.model.add_on_layers[0].weight, weights[best])
    assert run.progress.best_live is None
    index, expected = cut_out(run.model, run.push, backbone_maps(run))
    torch.testing.assert_close(vectors_of(run.model).detach()[index], expected)


def test_the_story_of_a_run_has_the_stage(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(**{**LIVE, "joint_epochs": 2}, push_start=1, push_every=1, patience=0))
    records = list(train(run))
    stages = [record.stage for record in records if isinstance(record, StageRecord)]
    assert stages == ["joint", "push", "live", "last_layer"] * 2
    epochs = [(record.stage, record.epoch) for record in records if isinstance(record, EpochRecord)]
    assert epochs == [
        ("warm", 0),
        ("joint", 1),
        ("live", 3),
        ("live", 4),
        ("joint", 2),
        ("live", 5),
        ("live", 6),
    ]
    live = [record for record in records if isinstance(record, EpochRecord) and record.stage == "live"]
    # In the last of four batches, of two epochs: 3/8 and 7/8 of the way down.
    assert [record.learning_rates["add_on_layers"] for record in live] == pytest.approx([0.03 * 5 / 8, 0.03 / 8] * 2)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["after_joint", "after_push", "after_live", "after_last_layer"]
    assert metrics["seconds"]["live"] > 0
    last = [record for record in records if isinstance(record, StageRecord) and record.epoch == metrics["epoch"]]
    assert metrics["stages"]["after_live"]["test"] == last[2].test_accuracy


def story(run) -> tuple[dict, list]:
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(run.job.log_path)]
    log = [line for line in log if "features of the un-augmented images from" not in line.get("text", "")]  # a path
    return weights, log


def resumed(folder, config, **job):
    run = toy_run(folder, config, **job)
    run.resume(read_checkpoint(find_resumable(folder)))
    return run


@pytest.mark.parametrize("name", ["protopnet", "stored", "protopool"])
def test_a_run_stopped_anywhere_in_the_stage_ends_with_the_same_bits(tmp_path, name) -> None:
    """Stopped in the first epoch, before its validation, and in the last; killed between the epochs."""
    config = CONFIGS[name]
    torch.set_num_threads(1)
    straight = toy_run(tmp_path / "straight", config)
    list(train(straight))
    weights, log = story(straight)

    stop = 0
    seen: list[BatchDone] = []

    def should_stop() -> bool:
        return len(seen) >= stop

    run = toy_run(tmp_path / "stopped", config, should_stop=should_stop)
    for stop, batch in ((2, 2), (4, 4), (7, 3)):
        train_until_stopped(run, seen, lambda one: isinstance(one, BatchDone) and one.stage == "live")
        assert run.last_checkpoint.name.startswith("live-")
        assert run.last_checkpoint.name.endswith(f"-batch-{batch}")
        if stop == 4:
            next(record for record in train(resumed(tmp_path / "stopped", config)) if isinstance(record, EpochRecord))
        run = resumed(tmp_path / "stopped", config, should_stop=should_stop)
    run = resumed(tmp_path / "stopped", config)
    list(train(run))
    again, log_again = story(run)
    assert again.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(again[key], value), key
    assert log_again == log


@pytest.mark.parametrize("name", ["protopnet", "stored"])
def test_a_run_killed_before_the_stage_ends_with_the_same_bits(tmp_path, name) -> None:
    """What the joint stage left as gradients of the prototypes is no part of the first live step."""
    config = CONFIGS[name]
    torch.set_num_threads(1)
    straight = toy_run(tmp_path / "straight", config)
    list(train(straight))
    weights, _ = story(straight)
    until_after(toy_run(tmp_path / "killed", config), "push")
    again = resumed(tmp_path / "killed", config)
    list(train(again))
    for key, value in story(again)[0].items():
        assert torch.equal(value, weights[key]), key
