from __future__ import annotations

from protokern.config.train import PruneConfig, TrainConfig
from protokern.train.stages import Step, plan, skip_after_early_stop


def names(train: TrainConfig, prune: PruneConfig | None = None, *, chooses: bool = False) -> list[str]:
    return [step.name for step in plan(train, prune or PruneConfig(), chooses=chooses)]


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


def test_a_model_that_prunes_before_its_push_has_one_push_and_no_last_layer_of_the_pruned() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=2, push_start=1, push_every=1, live_epochs=1)
    steps = plan(train, PruneConfig(enabled=True), prunes_before_push=True)
    stages = [step.stage for step in steps]
    assert stages == ["warm", "joint", "joint", "prune", "push", "live", "last_layer"]
    assert steps[skip_after_early_stop(steps, 2)].stage == "prune"


def test_live_epochs_follow_every_push_and_are_counted_behind_the_others() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=2, push_start=1, push_every=1, live_epochs=2)
    steps = plan(train, PruneConfig())
    assert [step.name for step in steps] == [
        "warm-0",
        "joint-1",
        "push-1",
        "live-3",
        "live-4",
        "last_layer-1",
        "joint-2",
        "push-2",
        "live-5",
        "live-6",
        "last_layer-2",
    ]
    assert [step.live_epoch for step in steps if step.stage == "live"] == [0, 1, 0, 1]
    pool = plan(
        TrainConfig(warm_epochs=0, joint_epochs=1, hardening_epochs=1, live_epochs=1), PruneConfig(), chooses=True
    )
    assert [step.name for step in pool] == ["joint-0", "hardening-1", "push-1", "live-2", "last_layer-1"]


def test_an_early_stop_goes_on_with_the_last_push_and_its_live_epochs() -> None:
    train = TrainConfig(warm_epochs=0, joint_epochs=6, push_start=2, push_every=2, live_epochs=1)
    steps = plan(train, PruneConfig())
    position = skip_after_early_stop(steps, 1)
    assert [step.name for step in steps[position:]] == ["push-5", "live-8", "last_layer-5"]


def test_warm_epochs_alone_end_in_a_push() -> None:
    assert names(TrainConfig(warm_epochs=2, joint_epochs=0)) == ["warm-0", "warm-1", "push-1", "last_layer-1"]


def test_an_early_stop_skips_to_the_last_push() -> None:
    steps = plan(TrainConfig(warm_epochs=0, joint_epochs=6, push_start=2, push_every=2), PruneConfig(enabled=True))
    assert steps[skip_after_early_stop(steps, 1)] == Step("push", 5)
    last_push = steps.index(Step("push", 5))
    assert skip_after_early_stop(steps, last_push) == last_push


def test_a_model_that_chooses_hardens_between_joint_and_push() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=2, hardening_epochs=2)
    assert names(train, PruneConfig(enabled=True), chooses=True) == [
        "warm-0",
        "joint-1",
        "joint-2",
        "hardening-3",
        "hardening-4",
        "push-4",
        "last_layer-4",
        "prune-4",
        "pruned_last_layer-4",
    ]
    assert "hardening-3" not in names(train)


def test_a_model_that_chooses_is_pushed_once_whatever_push_every_says() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=8, hardening_epochs=1, push_start=2, push_every=2)
    assert [name for name in names(train, chooses=True) if name.startswith("push")] == ["push-9"]
    assert [name for name in names(train) if name.startswith("push")] == ["push-2", "push-4", "push-6", "push-8"]


def test_without_hardening_epochs_the_push_follows_the_last_joint_epoch() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=1, hardening_epochs=0)
    assert names(train, chooses=True) == ["warm-0", "joint-1", "push-1", "last_layer-1"]


def test_an_early_stop_in_the_joint_stage_goes_on_with_the_hardening() -> None:
    steps = plan(TrainConfig(warm_epochs=1, joint_epochs=6, hardening_epochs=3), PruneConfig(), chooses=True)
    assert steps[skip_after_early_stop(steps, 3)] == Step("hardening", 7)
    assert skip_after_early_stop(steps, steps.index(Step("hardening", 7))) == steps.index(Step("hardening", 7))


def test_an_early_stop_in_the_hardening_goes_on_with_the_push() -> None:
    steps = plan(TrainConfig(warm_epochs=1, joint_epochs=6, hardening_epochs=3), PruneConfig(), chooses=True)
    assert steps[skip_after_early_stop(steps, steps.index(Step("hardening", 8)))] == Step("push", 9)


def test_an_early_stop_without_hardening_goes_on_with_the_push() -> None:
    train = TrainConfig(warm_epochs=1, joint_epochs=6, hardening_epochs=0)
    steps = plan(train, PruneConfig(), chooses=True)
    assert steps[skip_after_early_stop(steps, 3)] == Step("push", 6)
