"""A ProtoPool through the stages: warm, joint, hardening, push, last layer."""

from __future__ import annotations

import json
import math

import pytest
import torch

from protokern.evaluate import Evaluation
from protokern.runs.checkpoint_index import checkpoints_folder
from protokern.runs.log import EpochRecord, Notice, StageRecord, read_log
from protokern.runs.open import load_model
from protokern.train import loop as loop_module
from protokern.train.events import BatchDone, StepBegins
from protokern.train.loop import train

from .toy import ToySplits, pool_config, toy_run

CONFIG = {"warm_epochs": 1, "joint_epochs": 3, "hardening_epochs": 2, "prototype_lr": 0.1, "patience": 0}


def pool_run(folder, *, model=None, **changes):
    return toy_run(folder, pool_config(model=model, **{**CONFIG, **changes}))


def script_validation(monkeypatch, accuracies: list[float]) -> None:
    """Let the validation after each epoch say what the test wants."""
    results = iter(accuracies)
    monkeypatch.setattr(loop_module, "evaluate", lambda *_, **__: Evaluation(next(results), 1.0, 12))


def of(records, kind):
    return [record for record in records if isinstance(record, kind)]


def notices(records) -> list[str]:
    return [record.text for record in of(records, Notice) if "choices" in record.text]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run, its records, and what its choices were after every batch."""
    run = pool_run(tmp_path_factory.mktemp("pool"), prune=True)
    records, seen = [], []
    for record in train(run):
        records.append(record)
        if isinstance(record, BatchDone):
            choices = run.model.assignment
            seen.append(
                {
                    "stage": record.stage,
                    "epoch": record.epoch,
                    "batch": record.batch,
                    "scale": float(choices.scale),
                    "is_hard": run.model.is_hard,
                    "logits": choices.presence_logits.detach().clone(),
                    "slots": choices.slots.clone(),
                    "grad": choices.presence_logits.grad,
                    "learning": choices.presence_logits.requires_grad,
                }
            )
    return run, records, seen


def test_the_stages_come_in_order(told) -> None:
    run, records, _ = told
    assert [(record.stage, record.epoch) for record in of(records, EpochRecord)] == [
        ("warm", 0),
        ("joint", 1),
        ("joint", 2),
        ("joint", 3),
        ("hardening", 4),
        ("hardening", 5),
    ]
    stages = ["hardening", "push", "last_layer", "prune", "pruned_last_layer"]
    assert [record.stage for record in of(records, StageRecord)] == stages
    metrics = json.loads((run.job.folder / "metrics.json").read_text())
    assert list(metrics["stages"]) == [f"after_{name}" for name in stages]
    assert set(metrics["seconds"]) == {"warm", "joint", *stages}


def test_an_epoch_tells_the_terms_of_the_pool_s_loss(told) -> None:
    _, records, _ = told
    for record in of(records, EpochRecord):
        assert set(record.terms) == {"cross_entropy", "cluster", "separation", "l1", "orthogonality"}
        assert all(math.isfinite(value) for value in record.terms.values())


def test_epoch_0_trains(told) -> None:
    run, records, seen = told
    start = pool_run(run.job.folder.parent / "fresh").model.assignment.presence_logits
    first = [entry for entry in seen if entry["epoch"] == 0]
    assert not torch.equal(first[-1]["logits"], start)
    assert of(records, EpochRecord)[0].learning_rates.keys() == {"add_on_layers", "prototype_layer", "assignment"}


def test_the_scale_of_the_choices_follows_the_schedule(told) -> None:
    _, _, seen = told
    soft = [entry for entry in seen if entry["stage"] != "hardening"]
    for entry in soft:
        done = entry["epoch"] + (entry["batch"] - 1) / 4  # four batches an epoch; a batch is told when it is done
        assert entry["scale"] == pytest.approx(1000 * math.sqrt(done / 4))
        assert not entry["is_hard"]
    assert soft[0]["scale"] == 0


def test_choices_are_final_and_frozen_in_the_hardening_epochs(told) -> None:
    _, records, seen = told
    joint = [entry for entry in seen if entry["stage"] == "joint"]
    hard = [entry for entry in seen if entry["stage"] == "hardening"]
    assert len(hard) == 2 * 4
    for entry in hard:
        assert entry["is_hard"]
        assert not entry["learning"]
        assert torch.equal(entry["logits"], hard[0]["logits"])
        assert torch.equal(entry["slots"], hard[0]["slots"])
    assert not torch.equal(joint[0]["logits"], joint[-1]["logits"])
    assert hard[0]["slots"].min() >= 0
    assert all(len(set(row)) == 2 for row in hard[0]["slots"].tolist())
    for record in of(records, EpochRecord)[-2:]:
        assert record.learning_rates.keys() == {"backbone", "add_on_layers", "prototype_layer"}


def test_hardening_is_told_once_and_before_its_first_batch(told) -> None:
    run, records, _ = told
    (text,) = notices(records)
    assert text.startswith("the choices of epoch ")
    assert all(word in text for word in ("largest entropy", "repeated", "shared", "unused"))
    where = records.index(Notice(text=text))
    assert isinstance(records[where - 1], StepBegins)
    assert records[where - 1].stage == "hardening"
    assert [line["text"] for line in read_log(run.job.log_path) if "choices" in line.get("text", "")] == [text]


def test_prototypes_are_patches_of_one_of_their_classes_after_the_push(tmp_path) -> None:
    run = pool_run(tmp_path)
    list(train(run))
    push_set = run.job.splits.push
    images = torch.stack([push_set[i][0] for i in range(len(push_set))])
    with torch.no_grad():
        output = run.model.eval()(images)
    users = run.model.pool_use().classes
    for prototype, image in enumerate(run.push.image.tolist()):
        if users[prototype]:
            assert push_set.labels[image] in users[prototype]
            assert float(output.min_distances[image, prototype]) == pytest.approx(0, abs=1e-8)
        else:
            assert image == -1


def test_the_schedule_of_the_rates_runs_on_through_the_hardening(tmp_path) -> None:
    records = list(train(pool_run(tmp_path, schedule="linear", joint_epochs=2, hardening_epochs=2)))
    rates = [record.learning_rates["backbone"] for record in of(records, EpochRecord) if record.stage != "warm"]
    # At the last of four batches of each of four epochs.
    assert rates == pytest.approx([1e-3 * (1 - (epoch + 0.75) / 4) for epoch in range(4)])


def test_an_early_stop_in_the_joint_stage_goes_on_with_the_hardening(tmp_path, monkeypatch) -> None:
    script_validation(monkeypatch, [0.1, 0.5, 0.8, 0.6, 0.7, 0.3, 0.2])
    run = pool_run(tmp_path, joint_epochs=20, patience=2)
    logits, records = {}, []
    for record in train(run):
        records.append(record)
        if isinstance(record, EpochRecord):
            logits[record.epoch] = run.model.assignment.presence_logits.detach().clone()
    epochs = [(record.stage, record.epoch) for record in of(records, EpochRecord)]
    assert epochs == [("warm", 0), *(("joint", e) for e in (1, 2, 3, 4)), ("hardening", 21), ("hardening", 22)]
    assert notices(records)[0].startswith("the choices of epoch 2 are final: ")
    # The hardening begins with the best joint epoch, not with the last one.
    assert torch.equal(logits[21], logits[2])
    assert not torch.equal(logits[21], logits[4])


def test_the_best_hardening_epoch_is_pushed(tmp_path, monkeypatch) -> None:
    """Also when every joint epoch was better: with soft choices it was another model."""
    script_validation(monkeypatch, [0.9, 0.9, 0.95, 0.97, 0.2, 0.6, 0.4])
    run = pool_run(tmp_path, hardening_epochs=3)
    weights, records = {}, []
    for record in train(run):
        records.append(record)
        if isinstance(record, EpochRecord):
            weights[record.epoch] = run.model.backbone.state_dict()["body.0.weight"].clone()
    assert {record.epoch for record in of(records, StageRecord)} == {5}
    assert torch.equal(run.model.backbone.state_dict()["body.0.weight"], weights[5])
    assert not torch.equal(weights[5], weights[6])
    assert run.last_checkpoint.name == "last_layer-5"


def test_an_early_stop_in_the_hardening_goes_on_with_the_push(tmp_path, monkeypatch) -> None:
    script_validation(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.9, 0.9])
    records = list(train(pool_run(tmp_path, hardening_epochs=4, patience=1)))
    hard = [record.epoch for record in of(records, EpochRecord) if record.stage == "hardening"]
    assert hard == [4, 5]
    assert {record.epoch for record in of(records, StageRecord)} == {4}


def test_without_hardening_epochs_the_choices_are_made_at_the_push(tmp_path, monkeypatch) -> None:
    script_validation(monkeypatch, [0.1, 0.2, 0.9, 0.4])
    run = pool_run(tmp_path, hardening_epochs=0)
    records = list(train(run))
    assert [record.stage for record in of(records, StageRecord)] == ["joint", "push", "last_layer"]
    assert {record.epoch for record in of(records, StageRecord)} == {2}
    (text,) = notices(records)
    assert text.startswith("the choices are final: largest entropy ")
    assert run.model.is_hard
    assert load_model(checkpoints_folder(tmp_path) / "push-2")[0].is_hard


def test_warm_epochs_alone_are_hardened_too(tmp_path) -> None:
    records = list(train(pool_run(tmp_path, warm_epochs=2, joint_epochs=0, hardening_epochs=1)))
    assert [record.stage for record in of(records, EpochRecord)] == ["warm", "warm", "hardening"]
    assert notices(records)[0].startswith("the choices are final: ")
    assert [record.stage for record in of(records, StageRecord)] == ["hardening", "push", "last_layer"]


def test_a_sum_of_slots_runs_through_without_learning_a_last_layer(tmp_path) -> None:
    run = pool_run(tmp_path, model={"last_layer": "sum"}, joint_last_layer_lr=1e-3)
    records = list(train(run))
    *_, push, last_layer = of(records, StageRecord)
    assert (push.stage, last_layer.stage) == ("push", "last_layer")
    assert last_layer.details == {}
    assert (last_layer.val_accuracy, last_layer.val_loss) == (push.val_accuracy, push.val_loss)
    assert "l1" not in of(records, EpochRecord)[0].terms
    assert list(run.model.last_layer.parameters()) == []
    weight = load_model(tmp_path)[0].prototype_weight
    assert torch.equal(weight, run.model.class_identity.T)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({"focal": "similarity"}, {}),
        ({"compat": True}, {}),
        ({"num_prototypes": 2}, {}),
        ({"slots_per_class": 1, "num_prototypes": 1}, {}),
        ({"prototype_size": [2, 2]}, {}),
        ({"metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}, {}),
        ({}, {"precision": "bf16"}),
        ({}, {"orthogonality": 0, "mixup": 0}),
        ({}, {"optimizer": "adamw", "gradient_clip": 0.1, "label_smoothing": 0.1}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "default",
)
def test_the_other_ways_to_train_a_pool_run_through(tmp_path, model, changes) -> None:
    run = pool_run(tmp_path, model=model, joint_epochs=1, hardening_epochs=1, last_layer_epochs=1, **changes)
    *_, last = train(run)
    assert last.stage == "last_layer"
    assert run.model.is_hard
    assert run.model.prototype_layer.prototypes.dtype == torch.float32


def test_the_pool_learns_the_squares(tmp_path) -> None:
    run = pool_run(tmp_path, joint_epochs=8, backbone_lr=3e-3, prototype_lr=3e-2, schedule="linear", mixup=0)
    *_, last = train(run)
    assert last.val_accuracy >= 0.75


def images_of(splits: ToySplits) -> torch.Tensor:
    return torch.stack([splits.test[i][0] for i in range(len(splits.test))])


def test_a_soft_checkpoint_comes_back_with_the_same_answers(tmp_path) -> None:
    run = pool_run(tmp_path)
    for record in train(run):
        if isinstance(record, EpochRecord) and record.epoch == 2:
            break
    images = images_of(run.job.splits)
    expected = run.model.eval()(images)
    model, _, _ = load_model(checkpoints_folder(tmp_path) / "joint-2")
    output = model(images)
    assert not model.is_hard
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.assignment, expected.assignment)
    assert torch.equal(output.slot_similarities, expected.slot_similarities)
    with pytest.raises(ValueError, match=r"model: must have made its choices final"):
        _ = model.prototype_weight


def test_a_pruned_pool_comes_back_with_the_same_answers(told, tmp_path) -> None:
    run, _, _ = told
    images = images_of(run.job.splits)
    run.model.eval()
    model, _, _ = load_model(run.job.folder)
    assert torch.equal(model(images).logits, run.model(images).logits)
    assert model.num_prototypes == run.model.num_prototypes == len(run.push.image)


def test_a_pool_with_empty_slots_comes_back_with_the_same_answers(tmp_path) -> None:
    run = pool_run(tmp_path)
    run.model.harden()
    used = int(run.model.slots[0, 0])
    run.model.keep_prototypes([p for p in range(run.model.num_prototypes) if p != used])
    run.save("prune-9")
    model, _, _ = load_model(tmp_path)
    images = images_of(run.job.splits)
    assert model.slots is not None
    assert model.slots[0, 0] == -1
    assert torch.equal(model.slots, run.model.slots)
    assert torch.equal(model(images).logits, run.model.eval()(images).logits)
    assert torch.equal(model.prototype_weight, run.model.prototype_weight)


def test_the_configuration_of_a_checkpoint_is_the_run_s(told) -> None:
    run, _, _ = told
    _, config, classes = load_model(run.job.folder)
    assert config == run.job.config
    assert classes == run.job.classes
    assert config["model"]["num_prototypes"] == 5
