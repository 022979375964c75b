"""Forbidden patches in a training: a prototype that comes back without them does not come back with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protokern.config import RunConfig
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel, vectors_of
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.forbidden import Forbidden, ForbiddenPlace
from protokern.runs.log import read_log
from protokern.train.forbidden import (
    MOST_PLACES,
    ForbiddenNeighbours,
    ForbiddenPatches,
    ForbiddenPlaces,
    check_grid,
    find_places,
)
from protokern.train.loop import train
from protokern.train.optimizers import freeze
from protokern.train.state import TrainingRun, plan_of

from .toy import CLASSES, NET, Squares, ToySplits, toy_config, toy_run, train_until_stopped

GRID = (2, 2)  # of images of 16 pixels
COSINE = {**NET, "metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}
GO_ON = {"warm_epochs": 0, "prototype_start": "kept", "patience": 0}
# The whole backbone learns, with batch norms; a frozen one, whose maps are stored; live prototypes.
CONFIGS = {
    "joint": toy_config(**GO_ON, joint_epochs=2),
    "live": toy_config(**GO_ON, joint_epochs=1, live_epochs=2, live_lr=3e-2),
    "stored": toy_config(**GO_ON, joint_epochs=1, live_epochs=1, backbone="frozen"),
    "cosine": toy_config(**GO_ON, joint_epochs=1, model=COSINE, backbone="frozen"),
    "cells": toy_config(**GO_ON, joint_epochs=1, live_epochs=1, model={**NET, "prototype_size": [2, 2]}),
}
WEIGHTS = {"cross_entropy": 1.0, "cluster": 0.8, "separation": -0.08, "l1": 1e-4}


class Stickered(Squares):
    """Squares, with a patch of one pattern in the first corner of every image of the first class."""

    def __init__(self, count: int, **more: Any) -> None:
        super().__init__(count, **more)
        for image, label in zip(self.images, self.labels, strict=True):
            if label == 0:
                image[:, :8, :8] = torch.tensor([0.9, 0.1, 0.9])[:, None, None]


def splits() -> ToySplits:
    return ToySplits(train=Stickered(30, seed=1, augmented=True), push=Stickered(30, seed=1))


def places_of(config: RunConfig, images: tuple[int, ...] = (0, 3)) -> ForbiddenPlaces:
    is_large = getattr(config.model, "prototype_size", (1, 1)) == (2, 2)
    first_class = torch.tensor([[True, False, False]]).expand(len(images), -1)
    return ForbiddenPlaces(
        torch.tensor(images), torch.zeros(len(images), dtype=torch.int64), first_class, (1, 1) if is_large else GRID
    )


def run_of(folder: Path, config: RunConfig, *, coefficient: float = 1.0, **job: Any) -> TrainingRun:
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, forbidden=coefficient))
    return toy_run(folder, changed, splits(), **{"forbidden": places_of(config), **job})


def end_of(run: TrainingRun) -> dict[str, Tensor]:
    list(train(run))
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def check_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def cell_features(model: PrototypeModel, image: Tensor) -> Tensor:
    """(N, D) of one image, in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        features = model.features(image[None])[0].flatten(1).T
    for module, training in modes:
        module.training = training
    return features


def begin_on_the_sticker(run: TrainingRun) -> TrainingRun:
    """Both prototypes of the first class begin near the sticker of an image that nobody forbade."""
    sticker = cell_features(run.model, run.job.splits.push[6][0])[0]
    with torch.no_grad():
        noise = torch.randn(2, len(sticker), generator=torch.Generator().manual_seed(5))
        vectors_of(run.model)[:2] = sticker + 1e-3 * noise
    return run


def count_on_sticker(run: TrainingRun) -> int:
    assert run.push is not None
    return sum(
        int(run.push.patch[p]) == 0 and run.job.splits.push.labels[int(run.push.image[p])] == 0 for p in range(2)
    )


@pytest.mark.parametrize("name", ["joint", "stored", "cosine"])
def test_what_is_forbidden_does_not_come_back(tmp_path: Path, name: str) -> None:
    """The net hardly learns, so without the places the prototypes stay near the stickers of other images."""
    rates = {"backbone_lr": 1e-5, "add_on_lr": 1e-5, "prototype_lr": 1e-5}
    config = dataclasses.replace(CONFIGS[name], train=dataclasses.replace(CONFIGS[name].train, **rates))
    free = begin_on_the_sticker(run_of(tmp_path / "free", config, coefficient=0))
    list(train(free))
    assert count_on_sticker(free) == 2
    bound = begin_on_the_sticker(run_of(tmp_path / "bound", config))
    list(train(bound))
    assert count_on_sticker(bound) == 0
    epochs = [line for line in read_log(bound.job.log_path) if line["kind"] == "epoch"]
    assert all("forbidden" in line["terms"] for line in epochs)


@pytest.mark.parametrize("name", ["live", "cosine"])
def test_the_loss_alone_makes_prototypes_unlike_what_is_forbidden(tmp_path: Path, name: str) -> None:
    costs = []
    config = dataclasses.replace(CONFIGS[name], train=dataclasses.replace(CONFIGS[name].train, prototype_lr=3e-2))
    for coefficient in (1e-9, 10.0):
        run = begin_on_the_sticker(run_of(tmp_path / str(coefficient), config, coefficient=coefficient))
        list(train(run))
        epochs = [line for line in read_log(run.job.log_path) if line["kind"] == "epoch"]
        costs.append(epochs[-1]["terms"]["forbidden"])
        total = sum(epochs[-1]["terms"][term] * weight for term, weight in WEIGHTS.items())
        assert epochs[-1]["loss"] == pytest.approx(total + coefficient * costs[-1], rel=1e-4, abs=1e-4)
    assert costs[1] < costs[0] - 0.2


def test_the_last_joint_epoch_is_pushed_whatever_the_validation_images_say(tmp_path: Path) -> None:
    config = toy_config(**GO_ON, joint_epochs=3)
    run = run_of(tmp_path, config, coefficient=1e-9)
    list(train(run))
    pushed = next(line for line in read_log(run.job.log_path) if line["kind"] == "stage" and line["stage"] == "push")
    assert pushed["epoch"] == 2


def test_no_prototype_starts_at_what_is_forbidden(tmp_path: Path) -> None:
    config = toy_config(warm_epochs=0, joint_epochs=0, live_epochs=1, prototype_start="patches", backbone="frozen")
    free, bound = (run_of(tmp_path / str(c), config, coefficient=c) for c in (0.0, 1.0))
    list(train(free))
    list(train(bound))
    assert count_on_sticker(free) > 0
    assert count_on_sticker(bound) == 0


@pytest.mark.parametrize("name", ["live", "stored", "cells"])
def test_without_places_or_without_a_coefficient_training_has_the_same_bits(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    check_same(
        end_of(run_of(tmp_path / "none", config, forbidden=None)),
        end_of(run_of(tmp_path / "zero", config, coefficient=0)),
    )


@pytest.mark.parametrize(("name", "batches"), [("joint", 3), ("live", 6), ("stored", 2), ("cells", 6)])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, name: str, batches: int) -> None:
    torch.set_num_threads(1)
    whole = end_of(run_of(tmp_path / "whole", CONFIGS[name]))
    seen: list[Any] = []
    run = run_of(tmp_path / "stopped", CONFIGS[name], should_stop=lambda: len(seen) >= batches)
    train_until_stopped(run, seen)
    assert run.last_checkpoint is not None
    assert "-batch-" in run.last_checkpoint.name
    again = run_of(tmp_path / "stopped", CONFIGS[name])
    checkpoint = find_resumable(tmp_path / "stopped")
    assert checkpoint is not None
    again.resume(read_checkpoint(checkpoint))
    check_same(end_of(again), whole)


def test_kept_prototypes_are_measured_and_not_changed(tmp_path: Path) -> None:
    run = run_of(tmp_path, CONFIGS["joint"])
    assert [step.stage for step in plan_of(run.job)][:2] == ["start", "joint"]
    before = vectors_of(run.model).detach().clone()
    for _ in train(run):
        if run.progress.position == 1:
            break
    assert torch.equal(vectors_of(run.model), before)
    assert run.progress.results[0]["stage"] == "start"


def patches_of(run: TrainingRun, stage: str, places: ForbiddenPlaces | None = None) -> ForbiddenPatches:
    config = run.job.train
    freeze(run.model, stage, config)  # type: ignore[arg-type]
    chosen = places or run.job.forbidden
    assert chosen is not None
    return ForbiddenPatches(run.model, run.job.splits.push, chosen, stage, config, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["warm", "joint"])
def test_the_cost_is_that_of_the_present_features(tmp_path: Path, stage: str) -> None:
    """Also after the add-on layers, or in the joint stage the backbone, have changed."""
    run = run_of(tmp_path, CONFIGS["joint"])
    model = run.model
    patches = patches_of(run, stage)
    for _ in range(2):
        vectors = vectors_of(model).detach()[:2]
        expected = []
        for prototype in vectors:
            cells = [cell_features(model, run.job.splits.push[image][0])[0] for image in (0, 3)]
            distances = [float((cell - prototype).square().sum()) for cell in cells]
            expected.append(max(float(torch.tensor((d + 1) / (d + 1e-4)).log()) for d in distances))
        assert float(patches.cost(model).detach()) == pytest.approx(sum(expected) / 2, rel=1e-4)
        with torch.no_grad():
            for parameter in (model.backbone if stage == "joint" else model.add_on_layers).parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))


def test_the_cost_leaves_modes_statistics_and_random_numbers_alone(tmp_path: Path) -> None:
    run = run_of(tmp_path, CONFIGS["joint"])
    patches = patches_of(run, "joint")
    norms = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.training for norm in norms)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    patches.cost(run.model).backward()
    assert all(norm.training for norm in norms)
    check_same(before, dict(run.model.state_dict()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is not None for p in run.model.add_on_layers.parameters())
    assert any(p.grad is not None and p.grad.any() for p in run.model.backbone.parameters())


def test_the_loss_sees_evenly_spaced_places_and_the_push_all() -> None:
    count = 3 * MOST_PLACES // 2
    places = ForbiddenPlaces(torch.arange(count), torch.arange(count), torch.ones(count, 1, dtype=torch.bool), GRID)
    assert places.spread(4).image.tolist() == [0, 24, 48, 72]
    assert len(places.spread(MOST_PLACES).image) == MOST_PLACES
    assert places.spread(count + 1).image.tolist() == list(range(count))


@pytest.mark.parametrize("model", [NET, COSINE, {**NET, "prototype_size": [2, 1]}], ids=["square", "cosine", "cells"])
def test_neighbours_are_at_most_at_half_the_distance_of_the_middle_patch(tmp_path: Path, model: dict[str, Any]) -> None:
    config = toy_config(**GO_ON, joint_epochs=1, model=model)
    size = (2, 1) if "prototype_size" in model else (1, 1)
    grid = (GRID[0] - size[0] + 1, GRID[1])
    run = run_of(tmp_path, config, forbidden=None)
    images = run.job.splits.push
    # Prototype 0 belongs to the classes 0 and 1, so what is forbidden to one is left out in images of the other.
    run.model.class_identity[0, 1] = 1
    first, last = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    places = ForbiddenPlaces(torch.tensor([9, 2]), torch.tensor([0, grid[1] - 1]), torch.stack([first, last]), grid)
    run.model.eval()
    neighbours = ForbiddenNeighbours(run.model, images, places, config.train, 0)

    def vectors(image: int) -> list[Tensor]:
        with torch.no_grad():
            features = run.model.features(images[image][0][None])[0]
        cut = [
            features[:, row : row + size[0], column : column + size[1]].flatten()
            for row in range(grid[0])
            for column in range(grid[1])
        ]
        return [one / one.norm() for one in cut] if model is COSINE else cut

    batch = torch.tensor([9, 0, 4, 2, 5])
    labels = torch.tensor([images.labels[index] for index in batch.tolist()])
    with torch.no_grad():
        features = run.model.features(torch.stack([images[index][0] for index in batch.tolist()]))
    found = neighbours(features, labels, batch)
    assert found.shape == (5, *grid)
    classes = {0: {0, 1}, 1: {2}}
    for row, (image, label) in enumerate(zip(batch.tolist(), labels.tolist(), strict=True)):
        for patch, vector in enumerate(vectors(image)):
            expected = False
            for place in range(2):
                source, cell = int(places.image[place]), int(places.patch[place])
                own = vectors(source)
                distances = sorted(float((one - own[cell]).square().sum()) for one in own)
                others = distances[1:]
                radius = others[(len(others) - 1) // 2] / 2
                is_like = float((vector - own[cell]).square().sum()) <= radius or (image, patch) == (source, cell)
                expected |= label in classes[place] and is_like
            assert bool(found[row].flatten()[patch]) == expected, (image, patch)


def test_places_are_found_by_name() -> None:
    images = Squares(6, seed=1)
    known = ForbiddenPlace(image="green/4.png", patch=(1, 0), classes=("green", "red"))
    lost = ForbiddenPlace(image="green/400.png", patch=(1, 1), classes=("green",))
    places, note = find_places(Forbidden(grid=GRID, places=(lost, known)), images, CLASSES)
    assert places is not None
    assert places.image.tolist() == [4]
    assert places.patch.tolist() == [2]
    assert places.is_forbidden.tolist() == [[True, True, False]]
    assert note == "forbidden places: 1, and no prototype becomes a patch like one; 1 more in no training image"
    nothing, note = find_places(Forbidden(grid=GRID, places=(lost,)), images, CLASSES)
    assert nothing is None
    assert "without effect" in note


def test_another_grid_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, CONFIGS["joint"])
    places = dataclasses.replace(places_of(CONFIGS["joint"]), grid=(3, 3))
    with pytest.raises(ConfigError, match=r"data.image_size: must give the 3 x 3 patches of forbidden.json; got 2 x 2"):
        check_grid(run.model, run.job.splits.push, places)
