from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.config.train import TrainConfig
from protokern.train.optimizers import freeze, make_optimizer, schedule_factor, set_learning_rates

from .toy import toy_config, toy_run


@pytest.fixture
def model(tmp_path):
    return toy_run(tmp_path, toy_config()).model


def learning(model: nn.Module) -> set[str]:
    return {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("warm", {"add_on_layers", "prototype_layer"}),
        ("joint", {"backbone", "add_on_layers", "prototype_layer"}),
        ("last_layer", {"last_layer"}),
        ("pruned_last_layer", {"last_layer"}),
        ("push", set()),
        ("live", {"add_on_layers", "prototype_layer", "last_layer"}),
        ("prune", set()),
    ],
)
def test_each_stage_lets_only_its_parts_learn(model, stage, parts) -> None:
    freeze(model, stage, TrainConfig())
    assert learning(model) == parts


@pytest.mark.parametrize(("stage", "is_training"), [("warm", False), ("joint", True), ("last_layer", False)])
def test_batch_norm_stands_still_whenever_the_backbone_does(model, stage, is_training) -> None:
    freeze(model, stage, TrainConfig())
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(torch.rand(4, 3, 16, 16))
    changed = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert norms
    assert all(changed) if is_training else not any(changed)


def test_no_graph_is_built_through_a_frozen_backbone(model) -> None:
    freeze(model, "warm", TrainConfig())
    assert not model.backbone(torch.rand(2, 3, 16, 16)).requires_grad
    freeze(model, "last_layer", TrainConfig())
    assert not model.features(torch.rand(2, 3, 16, 16)).requires_grad


def test_the_default_rates_and_weight_decay_are_the_original_s(model) -> None:
    groups = {group["name"]: group for group in make_optimizer(model, "joint", TrainConfig()).param_groups}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "backbone": (1e-4, 1e-3),
        "add_on_layers": (3e-3, 1e-3),
        "prototype_layer": (3e-3, 0.0),
    }
    (last,) = make_optimizer(model, "last_layer", TrainConfig()).param_groups
    assert (last["lr"], last["weight_decay"]) == (1e-4, 0.0)


def test_the_last_layer_learns_in_the_joint_stage_if_it_is_given_a_rate(model) -> None:
    config = TrainConfig(joint_last_layer_lr=1e-3)
    freeze(model, "joint", config)
    assert "last_layer" in learning(model)
    assert [group["name"] for group in make_optimizer(model, "joint", config).param_groups][-1] == "last_layer"


def test_adamw_is_decoupled(model) -> None:
    assert isinstance(make_optimizer(model, "joint", TrainConfig(optimizer="adamw")), torch.optim.AdamW)


def test_step_falls_before_the_fifth_joint_epoch_as_in_the_original() -> None:
    """The original steps StepLR(5, 0.1) before each joint epoch; torch's own scheduler is the reference."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1)
    config = TrainConfig(schedule="step", step_size=5, step_gamma=0.1)
    optimizer.step()
    for epoch in range(12):
        scheduler.step()
        assert schedule_factor("joint", epoch + 0.7, 12, config) == pytest.approx(scheduler.get_last_lr()[0])


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 9.5, 1.0),
        ("linear", 0.0, 1.0),
        ("linear", 2.5, 0.75),
        ("linear", 10.0, 0.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 5.0, 0.5),
        ("cosine", 10.0, 0.0),
    ],
)
def test_the_other_schedules_by_hand(schedule, progress, factor) -> None:
    config = TrainConfig(schedule=schedule)
    assert schedule_factor("joint", progress, 10, config) == pytest.approx(factor)
    assert schedule_factor("hardening", progress, 10, config) == pytest.approx(factor)
    assert schedule_factor("warm", progress, 10, config) == 1.0


def test_rates_are_set_from_the_base_not_from_the_last_value(model) -> None:
    optimizer = make_optimizer(model, "joint", TrainConfig())
    for factor in (0.5, 0.5, 0.1):
        set_learning_rates(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5, 3e-4, 3e-4])
