from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protokern.errors import CheckpointError
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import EpochRecord, read_log
from protokern.runs.progress import load_optimizer, load_random, optimizer_tensors, random_tensors, set_seed
from protokern.train.events import BatchDone, StepBegins
from protokern.train.loop import train
from protokern.train.optimizers import freeze, make_optimizer
from protokern.train.state import TrainingRun, plan_of

from .tampering import change_table, change_tensors
from .toy import TREE, Squares, ToySplits, pool_config, toy_config, toy_run, train_until_stopped

CONFIG = toy_config(warm_epochs=1, joint_epochs=4, push_start=2, push_every=2, patience=0, prune=True)
# Draws from the run's generator in every batch: mixup, and the noise of the choices.
POOL_CONFIG = pool_config(
    warm_epochs=1,
    joint_epochs=2,
    hardening_epochs=2,
    patience=0,
    prototype_lr=0.1,
    joint_last_layer_lr=1e-3,
    prune=True,
)
NEEDED_CONFIG = toy_config(
    joint_epochs=1,
    prune={"rule": "needed", "loss_ratio": 2.0},
    last_layer_own="non_negative",
    last_layer_others="needed",
)
TREE_CONFIG = toy_config(
    model=TREE | {"leaf_threshold": 0.4}, joint_epochs=2, live_epochs=1, patience=0, prototype_lr=0.1, prune=True
)
CONFIGS = {"protopnet": CONFIG, "protopool": POOL_CONFIG, "needed": NEEDED_CONFIG, "prototree": TREE_CONFIG}
STOPS = [(CONFIG, 1), (CONFIG, 4), (CONFIG, 6), (CONFIG, 13)]
STOPS += [(TREE_CONFIG, batches) for batches in (2, 6, 14)]
STOPS += [(POOL_CONFIG, batches) for batches in (2, 4, 6, 13, 16, 18)]


def end_state(run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def without_times(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


@functools.cache
def whole_of(model: str) -> dict:
    """A run that was never stopped: its last weights, push and log."""
    config = CONFIGS[model]
    with tempfile.TemporaryDirectory() as folder:
        run = toy_run(Path(folder), config)
        torch.set_num_threads(1)
        list(train(run))
        return {"weights": end_state(run), "push": run.push, "log": read_log(run.job.log_path)}


def check_same_end(run, whole) -> None:
    weights = end_state(run)
    assert weights.keys() == whole["weights"].keys()
    for name, value in weights.items():
        assert torch.equal(value, whole["weights"][name]), name
    assert torch.equal(run.push.image, whole["push"].image)
    assert without_times(read_log(run.job.log_path)) == without_times(whole["log"])


def resumed(folder, config=CONFIG):
    run = toy_run(folder, config)
    run.resume(read_checkpoint(find_resumable(folder)))
    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_killed_after_any_step_ends_with_the_same_bits(tmp_path, name) -> None:
    """Killed after every single checkpoint: each process does one step, and is gone."""
    config = CONFIGS[name]
    steps = 0
    run = toy_run(tmp_path, config)
    while True:
        position = run.progress.position
        for _ in train(run):
            if run.progress.position > position:
                break  # the checkpoint is on the disk; drop the process
        else:
            break
        run = resumed(tmp_path, config)
        steps += 1
    assert steps == len(plan_of(run.job))
    check_same_end(run, whole_of(name))


@pytest.mark.parametrize(
    ("config", "batches"), STOPS, ids=lambda value: str(value) if isinstance(value, int) else value.model.name
)
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(tmp_path, config, batches) -> None:
    seen: list[Any] = []
    run = toy_run(tmp_path, config, should_stop=lambda: len(seen) >= batches)
    train_until_stopped(run, seen)
    assert "-batch-" in run.last_checkpoint.name
    again = resumed(tmp_path, config)
    list(train(again))
    check_same_end(again, whole_of(config.model.name))


def test_a_run_asked_to_stop_in_a_step_without_batches_stops_after_it(tmp_path) -> None:
    run: TrainingRun = toy_run(tmp_path, CONFIG, should_stop=lambda: run.push is not None)
    train_until_stopped(run, [])
    assert run.last_checkpoint.name.startswith("push-")
    again = resumed(tmp_path)
    list(train(again))
    check_same_end(again, whole_of("protopnet"))


def test_a_run_asked_to_stop_while_features_are_computed_goes_on_from_the_step_before(tmp_path) -> None:
    begun: list[Any] = []
    run = toy_run(tmp_path, CONFIG, should_stop=lambda: bool(begun))
    train_until_stopped(run, begun, lambda event: isinstance(event, StepBegins) and event.stage == "push")
    assert run.last_checkpoint.name == "joint-2"
    again = resumed(tmp_path)
    list(train(again))
    check_same_end(again, whole_of("protopnet"))


def test_a_run_killed_in_the_middle_of_the_first_hardening_epoch_hardens_again(tmp_path) -> None:
    """Killed without a checkpoint in between: the last one is of the last joint epoch, with soft choices."""
    run = toy_run(tmp_path, POOL_CONFIG)
    for record in train(run):
        if isinstance(record, BatchDone) and record.stage == "hardening":
            break
    assert run.model.is_hard
    again = resumed(tmp_path, POOL_CONFIG)
    assert not again.model.is_hard
    list(train(again))
    check_same_end(again, whole_of("protopool"))


@pytest.mark.parametrize("config", [CONFIG, POOL_CONFIG], ids=["protopnet", "protopool"])
def test_a_finished_run_resumes_to_itself(tmp_path, config) -> None:
    list(train(toy_run(tmp_path, config)))
    run = resumed(tmp_path, config)
    assert list(train(run)) == []
    check_same_end(run, whole_of(config.model.name))


def test_other_data_are_refused(tmp_path) -> None:
    list(train(toy_run(tmp_path, CONFIG)))
    run = toy_run(tmp_path, CONFIG, ToySplits(val=Squares(10, seed=2)))
    with pytest.raises(CheckpointError, match=r"data: must be that of the run to resume it.*'val': 12.*'val': 10"):
        run.resume(read_checkpoint(find_resumable(tmp_path)))


@pytest.mark.parametrize("names", [5, ["train"], "train"])
def test_names_of_images_that_are_no_table_are_refused(tmp_path, names) -> None:
    list(train(toy_run(tmp_path, CONFIG)))
    checkpoint = find_resumable(tmp_path)
    change_table(checkpoint / "state.json", lambda table: table["progress"].update(names=names))
    with pytest.raises(CheckpointError, match=r"must say where the training stands; it is broken"):
        toy_run(tmp_path, CONFIG).resume(read_checkpoint(checkpoint))


def test_a_checkpoint_without_names_of_images_is_of_any(tmp_path) -> None:
    """Those of earlier versions have none."""
    list(train(toy_run(tmp_path, CONFIG)))
    checkpoint = find_resumable(tmp_path)
    change_table(checkpoint / "state.json", lambda table: table["progress"].pop("names"))
    toy_run(tmp_path, CONFIG).resume(read_checkpoint(checkpoint))


def test_optimizer_states_come_back_in_full(tmp_path) -> None:
    model = toy_run(tmp_path, CONFIG).model
    freeze(model, "joint", CONFIG.train)
    optimizer = make_optimizer(model, "joint", CONFIG.train)
    model(torch.rand(4, 3, 16, 16)).min_distances.sum().backward()
    optimizer.step()
    tensors = {name: value.clone() for name, value in optimizer_tensors(optimizer, model).items()}
    assert len(tensors) == 3 * sum(1 for p in model.parameters() if p.requires_grad)
    again = make_optimizer(model, "joint", CONFIG.train)
    load_optimizer(again, model, tensors)
    loaded = optimizer_tensors(again, model)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_an_optimizer_state_of_another_shape_is_refused(tmp_path) -> None:
    model = toy_run(tmp_path, CONFIG).model
    optimizer = make_optimizer(model, "joint", CONFIG.train)
    tensors = {"optimizer/exp_avg/prototype_layer.prototypes": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_optimizer(optimizer, model, tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("random/python"),
        lambda tensors: tensors.update({"random/python": torch.zeros(3, dtype=torch.int64)}),
        lambda tensors: tensors.update({"random/numpy": torch.zeros((), dtype=torch.int64)}),
        lambda tensors: tensors.update({"random/torch": torch.zeros(2)}),
        lambda tensors: tensors.update({"optimizer/exp_avg": torch.zeros(2)}),
    ],
)
def test_states_that_are_missing_or_of_something_else_are_named(tmp_path, change) -> None:
    """Somebody changed them who knows how to mend the checksum."""
    run = toy_run(tmp_path, toy_config(warm_epochs=1, joint_epochs=0))
    for record in train(run):
        if isinstance(record, EpochRecord):
            break
    checkpoint = find_resumable(tmp_path)
    change_tensors(checkpoint / "resume.safetensors", change)
    with pytest.raises(CheckpointError, match=r"warm-0/resume.safetensors: must hold the states .*; it is broken"):
        resumed(tmp_path, toy_config(warm_epochs=1, joint_epochs=0))


def draws() -> tuple:
    return random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), float(torch.rand(()))


def test_random_states_come_back() -> None:
    set_seed(3, 1)
    random.gauss(0, 1)  # leaves a second normal waiting
    np.random.normal()  # so does this
    tensors = random_tensors(torch.device("cpu"))
    expected = draws()
    draws()
    load_random(tensors, torch.device("cpu"))
    assert draws() == expected


def test_the_random_state_of_a_gpu_is_that_of_the_one_that_trains(monkeypatch) -> None:
    set_to = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_to.append((int(state), device.index)))
    device = torch.device("cuda", 1)
    tensors = random_tensors(device)
    assert int(tensors["random/cuda"]) == 1
    load_random(tensors, device)
    assert set_to == [(1, 1)]
    assert "random/cuda" not in random_tensors(torch.device("cpu"))
    load_random(tensors, torch.device("cpu"))
    assert len(set_to) == 1


def test_seeds_differ_by_seed_and_by_position() -> None:
    values = set()
    for seed, position in ((0, 0), (0, 1), (1, 0)):
        set_seed(seed, position)
        values.add(draws())
    assert len(values) == 3


def test_the_resume_file_is_plain_tensors(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(warm_epochs=1, joint_epochs=0))
    list(train(run))
    tensors = read_checkpoint(run.last_checkpoint).read_tensors("resume.safetensors", at_most=10**7)
    assert {name.split("/")[0] for name in tensors} == {"optimizer", "random"}
