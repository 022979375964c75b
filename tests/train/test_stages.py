from __future__ import annotations

from protokern.train.settings import PruneConfig, TrainConfig
from protokern.train.stages import Step, plan, skip_after_early_stop


def names(train: TrainConfig, prune: PruneConfig | None = None) -> list[str]:
    return [step.name for step in plan(train, prune or PruneConfig())]


def test_a_push_and_the_last_layer_follow_the_last_epoch() -> None:
    assert names(TrainConfig(warm_epochs=1, joint_epochs=2)) == [
        "warm-0",
        "joint-1",
        "joint-2",
        "push-2",
        "last_layer-2",
    ]


def test_pushes_come_at_push_start_and_then_every_push_every_epochs() -> None:
    steps = plan(TrainConfig(warm_epochs=2, joint_epochs=6, push_start=3, push_every=2), PruneConfig())
    assert [step.epoch for step in steps if step.stage == "push"] == [3, 5, 7]
    assert [step.epoch for step in steps if step.stage == "last_layer"] == [3, 5, 7]


def test_the_defaults_push_where_the_original_does() -> None:
    pushes = [step.epoch for step in plan(TrainConfig(), PruneConfig()) if step.stage == "push"]
    assert pushes == [10, 20, 30]


def test_no_push_in_the_warm_stage() -> None:
    steps = plan(TrainConfig(warm_epochs=4, joint_epochs=2, push_start=0, push_every=1), PruneConfig())
    assert [step.epoch for step in steps if step.stage == "push"] == [4, 5]


def test_pruning_comes_last_with_a_last_layer_stage_of_its_own() -> None:
    assert names(TrainConfig(warm_epochs=0, joint_epochs=1), PruneConfig(enabled=True)) == [
        "joint-0",
        "push-0",
        "last_layer-0",
        "prune-0",
        "pruned_last_layer-0",
    ]


def test_warm_epochs_alone_end_in_a_push() -> None:
    assert names(TrainConfig(warm_epochs=2, joint_epochs=0)) == ["warm-0", "warm-1", "push-1", "last_layer-1"]


def test_an_early_stop_skips_to_the_last_push() -> None:
    steps = plan(TrainConfig(warm_epochs=0, joint_epochs=6, push_start=2, push_every=2), PruneConfig(enabled=True))
    assert steps[skip_after_early_stop(steps, 1)] == Step("push", 5)
    last_push = steps.index(Step("push", 5))
    assert skip_after_early_stop(steps, last_push) == last_push
