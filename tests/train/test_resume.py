from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from protokern.errors import CheckpointError
from protokern.train.checkpoint import find_resumable, read_tensors
from protokern.train.logger import read_log
from protokern.train.loop import train
from protokern.train.optimizers import freeze, make_optimizer
from protokern.train.records import BatchRecord
from protokern.train.resume import load_optimizer, load_random, optimizer_tensors, random_tensors, set_seed
from protokern.train.run import resume_run
from protokern.train.stages import plan

from .toy import Squares, ToySplits, toy_config, toy_run

CONFIG = toy_config(warm_epochs=1, joint_epochs=4, push_start=2, push_every=2, patience=0, prune=True)


def end_state(run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def without_times(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped: its last weights, push, log and records."""
    run = toy_run(tmp_path_factory.mktemp("whole"), CONFIG)
    torch.set_num_threads(1)
    records = list(train(run))
    return {"weights": end_state(run), "push": run.push, "log": read_log(run.log_path), "records": records}


def check_same_end(run, whole) -> None:
    weights = end_state(run)
    assert weights.keys() == whole["weights"].keys()
    for name, value in weights.items():
        assert torch.equal(value, whole["weights"][name]), name
    assert torch.equal(run.push.image, whole["push"].image)
    assert without_times(read_log(run.log_path)) == without_times(whole["log"])


def resumed(folder):
    run = toy_run(folder, CONFIG)
    resume_run(run, find_resumable(folder))
    return run


def test_a_run_killed_after_any_step_ends_with_the_same_bits(tmp_path, whole) -> None:
    """Killed after every single checkpoint: each process does one step, and is gone."""
    steps = 0
    run = toy_run(tmp_path, CONFIG)
    while True:
        position = run.progress.position
        for _ in train(run):
            if run.progress.position > position:
                break  # the checkpoint is on the disk; drop the process
        else:
            break
        run = resumed(tmp_path)
        steps += 1
    assert steps == len(plan(CONFIG.train, CONFIG.prune))
    check_same_end(run, whole)


@pytest.mark.parametrize("batches", [1, 4, 6, 13])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(tmp_path, whole, batches) -> None:
    seen = []
    run = toy_run(tmp_path, CONFIG)
    run.should_stop = lambda: len(seen) >= batches
    with pytest.raises(KeyboardInterrupt):
        seen.extend(record for record in train(run) if isinstance(record, BatchRecord))
    assert "-batch-" in run.last_checkpoint.name
    again = resumed(tmp_path)
    list(train(again))
    check_same_end(again, whole)


def test_a_finished_run_resumes_to_itself(tmp_path, whole) -> None:
    list(train(toy_run(tmp_path, CONFIG)))
    run = resumed(tmp_path)
    assert list(train(run)) == []
    check_same_end(run, whole)


def test_other_data_are_refused(tmp_path) -> None:
    list(train(toy_run(tmp_path, CONFIG)))
    run = toy_run(tmp_path, CONFIG, ToySplits(val=Squares(10, seed=2)))
    with pytest.raises(CheckpointError, match=r"data: must be that of the run to resume it.*'val': 12.*'val': 10"):
        resume_run(run, find_resumable(tmp_path))


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


def draws() -> tuple:
    return random.random(), np.random.normal(), np.random.rand(), float(torch.rand(()))


def test_random_states_come_back() -> None:
    set_seed(3, 1)
    np.random.normal()  # leaves a second normal waiting
    tensors = random_tensors()
    expected = draws()
    draws()
    load_random(tensors)
    assert draws() == expected


def test_seeds_differ_by_seed_and_by_position() -> None:
    values = set()
    for seed, position in ((0, 0), (0, 1), (1, 0)):
        set_seed(seed, position)
        values.add(draws())
    assert len(values) == 3


def test_the_resume_file_is_plain_tensors(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(warm_epochs=1, joint_epochs=0))
    list(train(run))
    assert {name.split("/")[0] for name in read_tensors(run.last_checkpoint / "resume.safetensors")} == {
        "optimizer",
        "random",
    }
