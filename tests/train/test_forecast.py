"""What a training will take: which parts are told, and that timing them leaves the training as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from protokern.train.forecast import SECONDS_A_PROTOTYPE, SECONDS_TO_BEGIN_REPORT, forecast
from protokern.train.loop import begin_step
from protokern.train.stages import plan
from protokern.train.state import TrainingRun
from tests.train.toy import Squares, ToySplits, pool_config, toy_config, toy_run

REPORT = "pictures and report"


def names(run: TrainingRun) -> list[str]:
    known = forecast(run.job)
    assert known is not None
    assert all(part.seconds > 0 for part in known.parts)
    assert known.seconds_an_image > 0
    return [part.name for part in known.parts]


def test_a_frozen_backbone_goes_once_over_all_images(tmp_path: Path) -> None:
    run = toy_run(tmp_path, toy_config(backbone="frozen"))
    assert names(run) == ["backbone over 51 images", "3 epochs of the head", "last layer", REPORT]


def test_what_is_stored_already_is_not_done_again(tmp_path: Path) -> None:
    run = toy_run(tmp_path, toy_config(backbone="frozen"))
    list(run.open_stores())
    assert names(run) == ["3 epochs of the head", "last layer", REPORT]


def test_a_backbone_that_learns_is_timed_with_its_epochs(tmp_path: Path) -> None:
    run = toy_run(tmp_path, toy_config(warm_epochs=0, joint_epochs=1))
    assert names(run) == ["1 epoch of 30 images", "push and last layer", REPORT]


def test_every_stage_of_a_pool_can_be_timed(tmp_path: Path) -> None:
    run = toy_run(tmp_path, pool_config(joint_epochs=1, hardening_epochs=1, live_epochs=1, mixup=0.5))
    assert names(run) == ["4 epochs of 30 images", "push and last layer", REPORT]


def test_timing_leaves_weights_gradients_and_random_numbers_alone(tmp_path: Path) -> None:
    run = toy_run(tmp_path, pool_config(live_epochs=1, mixup=0.5))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    modes = [module.training for module in run.model.modules()]
    names(run)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert [module.training for module in run.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)


def test_too_few_images_are_not_timed(tmp_path: Path) -> None:
    few = ToySplits(train=Squares(3, seed=1), push=Squares(3, seed=1))
    assert forecast(toy_run(tmp_path, toy_config(), few).job) is None


def test_steps_say_where_they_are_in_their_stage() -> None:
    config = toy_config(warm_epochs=1, joint_epochs=2, live_epochs=2)
    steps = plan(config.train, config.prune)
    begun = [begin_step(steps, position) for position in range(len(steps))]
    assert [(one.stage, one.done, one.together) for one in begun[:6]] == [
        ("warm", 0, 1),
        ("joint", 0, 2),
        ("joint", 1, 2),
        ("push", 0, 1),
        ("live", 0, 2),
        ("live", 1, 2),
    ]
    assert {(one.steps, one.position) for one in begun} == {(len(steps), position) for position in range(len(steps))}


def test_every_prototype_is_drawn_whatever_the_backbone_takes(tmp_path: Path) -> None:
    run = toy_run(tmp_path, toy_config(backbone="frozen"))
    known = forecast(run.job)
    assert known is not None
    (seconds,) = (part.seconds for part in known.parts if part.name == REPORT)
    assert seconds > SECONDS_TO_BEGIN_REPORT + run.model.num_prototypes * SECONDS_A_PROTOTYPE
