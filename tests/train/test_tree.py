"""What is special about training a ProtoTree: its leaves learn by counting, and it is pruned before the push."""

from __future__ import annotations

import pytest
import torch

from protokern.errors import TrainingError
from protokern.runs.log import read_log
from protokern.train.loop import train

from .toy import TREE, toy_config, toy_run


def leaves_after(tmp_path, **settings) -> torch.Tensor:
    """The leaf logits after one epoch."""
    config = toy_config(
        model=TREE, warm_epochs=0, joint_epochs=1, patience=0, batch_norm="frozen", live_epochs=0, **settings
    )
    run = toy_run(tmp_path, config)
    list(train(run))
    logits: torch.Tensor = run.model.state_dict()["last_layer.leaf_logits"]
    return logits


def test_leaves_count_a_batch_whole_when_it_is_taken_in_parts(tmp_path) -> None:
    whole = leaves_after(tmp_path / "whole")
    torch.testing.assert_close(leaves_after(tmp_path / "parts", accumulation=3), whole, rtol=1e-3, atol=1e-4)
    # An epoch of 30 images, of which the first batches have partly been taken off again.
    assert 20 < float(whole.sum()) <= 30


def test_a_tree_learns_is_pruned_and_then_pushed(tmp_path) -> None:
    config = toy_config(
        model=TREE | {"leaf_threshold": 0.5}, joint_epochs=6, patience=0, prototype_lr=0.1, add_on_lr=3e-2, prune=True
    )
    run = toy_run(tmp_path, config)
    list(train(run))
    stages = [line for line in read_log(run.job.log_path) if line["kind"] == "stage"]
    assert [line["stage"] for line in stages] == ["joint", "prune", "push", "last_layer"]
    joint, pruned, pushed, last = stages
    assert joint["num_prototypes"] == 7
    assert pruned["num_prototypes"] == 7 - pruned["details"]["removed"] < 7
    assert pushed["num_prototypes"] == last["num_prototypes"] == pruned["num_prototypes"]
    assert pushed["details"]["without_patch"] == 0
    assert joint["val_accuracy"] >= 0.75
    assert run.push is not None
    classes = run.model.class_identity > 0
    labels = torch.tensor(run.inputs.push.labels)[run.push.image]
    assert classes[torch.arange(len(labels)), labels].all()


def test_a_step_of_the_tree_moves_the_leaves_and_what_comes_before(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(model=TREE, warm_epochs=0, joint_epochs=1, patience=0))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    list(train(run))
    moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    for name in ("last_layer.leaf_logits", "prototype_layer.prototypes", "add_on_layers.0.weight"):
        assert name in moved
    assert any(name.startswith("backbone") for name in moved)


def test_a_tree_cannot_start_at_patches_of_classes_that_it_has_not_learnt(tmp_path) -> None:
    config = toy_config(model=TREE, prototype_start="patches", backbone="frozen", patience=0)
    with pytest.raises(TrainingError, match='prototype_start: must be "random" for a model whose prototypes have no'):
        list(train(toy_run(tmp_path, config)))


@pytest.mark.parametrize("key", ["l1", "cluster"])
def test_terms_that_the_tree_lacks_are_not_in_its_log(tmp_path, key) -> None:
    run = toy_run(tmp_path, toy_config(model=TREE, warm_epochs=1, joint_epochs=0, patience=0))
    list(train(run))
    epochs = [line for line in read_log(run.job.log_path) if line["kind"] == "epoch"]
    assert all(key not in line["terms"] for line in epochs)
