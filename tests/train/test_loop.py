from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from protokern.errors import CheckpointError, TrainingError
from protokern.evaluate import Evaluation
from protokern.models.base import vectors_of
from protokern.runs.checkpoints import find_resumable
from protokern.runs.log import EpochRecord, Notice, StageRecord, read_log
from protokern.runs.open import load_model
from protokern.storage import files
from protokern.train import head_stages
from protokern.train import loop as loop_module
from protokern.train.events import BatchDone, StepBegins
from protokern.train.loop import train

from .toy import Squares, ToySplits, toy_config, toy_run


def stages(records) -> list[str]:
    return [record.stage for record in records if isinstance(record, StageRecord)]


def script_validation(monkeypatch, accuracies: list[float]) -> None:
    """Let the validation after each epoch say what the test wants."""
    results = iter(accuracies)

    def evaluate(model, batches, device, **_):
        return Evaluation(next(results), 1.0, 12)

    monkeypatch.setattr(loop_module, "evaluate", evaluate)


def test_a_run_learns_the_squares_and_tells_its_story(tmp_path) -> None:
    config = toy_config(joint_epochs=6, backbone_lr=3e-3, prune=True)
    run = toy_run(tmp_path, config)
    records = list(train(run))

    epochs = [record for record in records if isinstance(record, EpochRecord)]
    assert [(record.stage, record.epoch) for record in epochs] == [("warm", 0)] + [("joint", e) for e in range(1, 7)]
    assert all(record.images == 30 for record in epochs)
    assert epochs[-1].loss < epochs[0].loss
    assert stages(records) == ["joint", "push", "last_layer", "prune", "pruned_last_layer"]
    assert records[0] == Notice(text="a note")
    assert sum(isinstance(record, BatchDone) for record in records) == 7 * 4
    assert sum(isinstance(record, StepBegins) for record in records) == 11

    log = read_log(tmp_path / "log.jsonl")
    assert [line["kind"] for line in log] == ["notice"] + ["epoch"] * 7 + ["stage"] * 5
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["stages"]) == [
        "after_joint",
        "after_push",
        "after_last_layer",
        "after_prune",
        "after_pruned_last_layer",
    ]
    assert metrics["accuracy"] == metrics["stages"]["after_pruned_last_layer"]["test"]
    assert metrics["images"] == {"train": 30, "val": 12, "test": 9}
    assert set(metrics["seconds"]) == {"warm", "joint", "push", "last_layer", "prune", "pruned_last_layer"}
    assert metrics["stages"]["after_joint"]["val"] >= 0.75


def test_the_numbers_reported_are_those_of_the_saved_model(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(joint_epochs=3))
    *_, last = train(run)
    model, _, _ = load_model(tmp_path)
    for split, accuracy in ((run.job.splits.val, last.val_accuracy), (run.job.splits.test, last.test_accuracy)):
        images = torch.stack([split[i][0] for i in range(len(split))])
        correct = model(images).logits.argmax(1) == torch.tensor(split.labels)
        assert float(correct.float().mean()) == pytest.approx(accuracy)


def test_prototypes_are_patches_of_their_own_class_after_the_push(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config())
    list(train(run))
    push_set = run.job.splits.push
    images = torch.stack([push_set[i][0] for i in range(len(push_set))])
    with torch.no_grad():
        output = run.model.eval()(images)
    for prototype, image in enumerate(run.push.image.tolist()):
        assert run.model.class_identity[prototype].nonzero().tolist() == [[push_set.labels[image]]]
        assert float(output.min_distances[image, prototype]) == pytest.approx(0, abs=1e-8)


def test_the_warm_stage_leaves_the_backbone_and_the_last_layer_alone(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(warm_epochs=2, joint_epochs=0))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for record in train(run):
        if isinstance(record, StepBegins) and record.stage == "push":
            break
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} == {"add_on_layers", "prototype_layer"}


def test_push_and_last_layer_leave_the_backbone_and_its_statistics_alone(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config())
    before = None
    for record in train(run):
        if isinstance(record, StageRecord) and record.stage == "joint":
            before = None
        if isinstance(record, StepBegins) and record.stage == "last_layer":
            before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert before is not None
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= {"last_layer.weight"}


def test_the_backbone_sees_each_image_once_for_push_last_layer_and_prune(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(prune=True))
    images_seen = []
    for record in train(run):
        if isinstance(record, StepBegins) and record.stage == "push":
            run.model.backbone.register_forward_hook(lambda _, inputs, __: images_seen.append(len(inputs[0])))
    assert sum(images_seen) == 30 + 12 + 9


def test_training_stops_early_and_the_best_epoch_is_pushed(tmp_path, monkeypatch) -> None:
    script_validation(monkeypatch, [0.1, 0.5, 0.8, 0.6, 0.7, 0.9])
    run = toy_run(tmp_path, toy_config(joint_epochs=20, push_start=50, patience=2))
    weights = {}
    records = []
    for record in train(run):
        records.append(record)
        if isinstance(record, EpochRecord):
            weights[record.epoch] = run.model.backbone.state_dict()["body.0.weight"].clone()
    epochs = [record.epoch for record in records if isinstance(record, EpochRecord)]
    assert epochs == [0, 1, 2, 3, 4]
    assert Notice(text="early stop: 2 epochs without better validation accuracy") in records
    assert {record.epoch for record in records if isinstance(record, StageRecord)} == {2}
    assert torch.equal(run.model.backbone.state_dict()["body.0.weight"], weights[2])
    assert not torch.equal(weights[2], weights[4])
    assert run.last_checkpoint.name == "last_layer-2"


def test_a_tie_in_accuracy_goes_to_the_lower_loss(tmp_path, monkeypatch) -> None:
    results = iter([Evaluation(0.5, loss, 12) for loss in (1.0, 0.9, 0.7, 0.8)])
    monkeypatch.setattr(loop_module, "evaluate", lambda *_, **__: next(results))
    run = toy_run(tmp_path, toy_config(joint_epochs=3, patience=0))
    assert next(record.epoch for record in train(run) if isinstance(record, StageRecord)) == 2


def test_the_test_split_changes_nothing_but_its_own_numbers(tmp_path) -> None:
    """Another test split, other test accuracies; the same weights and choices."""
    ends = []
    for name, test in (("a", Squares(9, seed=3)), ("b", Squares(60, seed=9))):
        run = toy_run(tmp_path / name, toy_config(joint_epochs=3, live_epochs=2, prune=True), ToySplits(test=test))
        list(train(run))
        ends.append((run.progress.epoch, run.model.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(value, ends[1][1][key]) for key, value in ends[0][1].items())


@pytest.mark.parametrize("prune", [False, True])
def test_of_several_pushes_the_best_on_the_validation_split_is_kept(tmp_path, monkeypatch, prune) -> None:
    config = toy_config(warm_epochs=0, joint_epochs=3, push_start=0, push_every=1, prune=prune)
    run = toy_run(tmp_path, config)
    accuracies, weights = iter([0.4, 0.9, 0.6]), {}
    measure = head_stages._measure

    def scripted(run, stage, details):
        record = measure(run, stage, details)
        if stage != "last_layer":
            return record
        weights[run.progress.epoch] = run.model.backbone.state_dict()["body.0.weight"].clone()
        return dataclasses.replace(record, val_accuracy=next(accuracies))

    monkeypatch.setattr(head_stages, "_measure", scripted)
    records = list(train(run))
    assert Notice(text="back to the push after epoch 1, the best on the validation split") in records
    model, _, _ = load_model(tmp_path)
    assert torch.equal(model.backbone.state_dict()["body.0.weight"], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert run.last_checkpoint.name == ("pruned_last_layer-1" if prune else "last_layer-1-2")
    assert json.loads((tmp_path / "metrics.json").read_text())["epoch"] == 1
    assert len(run.push.image) == model.num_prototypes


class Poisoned(Squares):
    """One training image is NaN."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (image * torch.nan, label) if index == 17 else (image, label)


def test_a_loss_that_is_not_finite_stops_with_stage_epoch_batch_and_images(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(), ToySplits(train=Poisoned(30, seed=1, augmented=True)))
    with pytest.raises(TrainingError) as caught:
        list(train(run))
    message = str(caught.value)
    assert "warm epoch 0, batch " in message
    assert " of 4: the loss is not finite (cross_entropy nan" in message
    assert "The batch is " in message
    assert ".png" in message
    assert f"The last good checkpoint is {tmp_path}/checkpoints/init-0." in message
    model, _, _ = load_model(tmp_path)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_exploding_weights_never_reach_a_checkpoint(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(joint_epochs=4, backbone_lr=1e30, add_on_lr=1e30))
    with pytest.raises(TrainingError, match="not finite"):
        list(train(run))
    model, _, _ = load_model(tmp_path)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch) -> None:
    run = toy_run(tmp_path, toy_config(joint_epochs=3))
    records = train(run)
    while not (isinstance(record := next(records), EpochRecord) and record.epoch == 1):
        pass

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        list(records)
    monkeypatch.undo()
    assert find_resumable(tmp_path).name == "joint-1"
    assert load_model(tmp_path)[0].num_prototypes == 6


def test_gradients_are_clipped(tmp_path) -> None:
    """With a tiny bound the first Adam step is unchanged by scale, so look at the gradients themselves."""
    run = toy_run(tmp_path, toy_config(gradient_clip=1e-3, warm_epochs=0, joint_epochs=1))
    for record in train(run):
        if isinstance(record, BatchDone):
            norms = [p.grad.norm() for p in run.model.parameters() if p.grad is not None]
            assert float(torch.stack(norms).norm()) <= 1.001e-3
            break


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"channels_last": False}, {"label_smoothing": 0.1}])
def test_the_other_ways_to_train_run_through(tmp_path, changes) -> None:
    run = toy_run(tmp_path, toy_config(**changes))
    *_, last = train(run)
    assert last.stage == "last_layer"
    assert vectors_of(run.model).dtype == torch.float32


def test_a_small_feature_cache_changes_nothing(tmp_path) -> None:
    ends = []
    for memory in (0, 2048):
        run = toy_run(tmp_path / str(memory), toy_config(prune=True, feature_cache_mb=memory))
        list(train(run))
        ends.append(run.model.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_what_the_answers_do_not_need_is_pruned_and_said(tmp_path) -> None:
    settings = {"last_layer_own": "non_negative", "last_layer_others": "none"}
    rule = {"rule": "needed", "loss_ratio": 3.0, "accuracy_loss": 0.2}
    run = toy_run(tmp_path, toy_config(joint_epochs=4, backbone_lr=3e-3, prune=rule, **settings))
    records = {record.stage: record for record in train(run) if isinstance(record, StageRecord)}
    before, after, end = (records[stage] for stage in ("last_layer", "prune", "pruned_last_layer"))
    details = after.details
    assert details["removed"] == details["copies"] + details["not_needed"] == 6 - after.num_prototypes > 0
    assert details["loss_before"] == pytest.approx(before.val_loss, rel=1e-5)
    assert details["loss_after"] == pytest.approx(after.val_loss, rel=1e-5)
    assert after.val_loss <= 3 * before.val_loss or details["not_needed"] == 0
    assert after.val_accuracy >= before.val_accuracy - 0.2 or details["not_needed"] == 0
    assert len(run.push.image) == after.num_prototypes == end.num_prototypes >= 3
    is_own = run.model.class_identity.T > 0
    assert bool(is_own.any(dim=1).all())
    assert float(run.model.last_layer.weight.detach()[is_own].min()) >= 0
    assert not run.model.last_layer.weight.detach()[~is_own].any()
