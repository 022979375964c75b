from __future__ import annotations

import json

import pytest
import torch

from protokern.errors import CheckpointError
from protokern.push import PushResult
from protokern.train import files
from protokern.train.checkpoint import (
    CheckpointState,
    checkpoints_folder,
    find_checkpoint,
    find_resumable,
    load_model,
    push_from_table,
    push_to_table,
    read_state,
    save_checkpoint,
)

from .toy import CLASSES, toy_config, toy_run

PUSH = PushResult(
    image=torch.tensor([4, -1, 2, 0, 1, 3]),
    patch=torch.tensor([1, -1, 0, 3, 2, 2]),
    distance=torch.tensor([0.25, torch.inf, 0.5, 0.0, 1.5, 2.0]),
    label=torch.tensor([0, -1, 1, 1, 2, 2]),
    grid=(2, 2),
)


@pytest.fixture
def run(tmp_path):
    return toy_run(tmp_path / "run", toy_config())


def save(run, name, *, resume=True, keep=(), push=None):
    stage, epoch = name.split("-")[:2]
    state = CheckpointState(config=run.config, classes=CLASSES, stage=stage, epoch=int(epoch), push=push, progress={})
    tensors = {"random/torch": torch.get_rng_state()} if resume else None
    return save_checkpoint(run.folder, name, run.model, state, resume=tensors, keep=keep)


def folders(run) -> set[str]:
    return {path.name for path in checkpoints_folder(run.folder).iterdir() if path.is_dir()}


def test_a_model_comes_back_with_the_same_answers(run) -> None:
    images = torch.rand(3, 3, 16, 16)
    expected = run.model.eval()(images)
    path = save(run, "joint-4", push=PUSH)
    for source in (run.folder, path, str(run.folder)):
        model, config, classes = load_model(source)
        assert not model.training
        assert torch.equal(model(images).logits, expected.logits)
        assert config == run.config
        assert classes == CLASSES


def test_a_pruned_model_comes_back_without_the_pruned_prototypes(run) -> None:
    run.model.keep_prototypes([0, 3, 5])
    images = torch.rand(3, 3, 16, 16)
    expected = run.model.eval()(images).logits
    save(run, "prune-4")
    model, _, _ = load_model(run.folder)
    assert model.num_prototypes == 3
    assert torch.equal(model.class_identity, torch.eye(3))
    assert torch.equal(model(images).logits, expected)


def test_loading_reads_no_file_of_pretrained_weights(tmp_path) -> None:
    config = toy_config()
    run = toy_run(tmp_path / "run", config)
    run.config["model"]["weights"] = "/nowhere/weights.safetensors"
    save(run, "joint-0")
    assert load_model(run.folder)[0].num_prototypes == 6


def test_where_prototypes_come_from_is_kept_exactly(run) -> None:
    state = read_state(save(run, "push-4", push=PUSH))
    assert state.push is not None
    for name in ("image", "patch", "distance", "label"):
        assert torch.equal(getattr(state.push, name), getattr(PUSH, name)), name
    assert state.push.grid == PUSH.grid
    assert push_to_table(push_from_table(push_to_table(PUSH))) == push_to_table(PUSH)


def test_the_two_newest_the_named_ones_and_those_of_the_head_stages_are_kept(run) -> None:
    for name in ("init-0", "warm-0", "joint-1", "joint-2", "push-1", "last_layer-1", "joint-3", "joint-4", "joint-5"):
        save(run, name, keep={"joint-2"})
    assert folders(run) == {"joint-2", "push-1", "last_layer-1", "joint-4", "joint-5"}
    with_resume = {
        name for name in folders(run) if (checkpoints_folder(run.folder) / name / "resume.safetensors").exists()
    }
    assert with_resume == {"joint-2", "joint-4", "joint-5"}


def test_a_checkpoint_of_another_command_is_the_latest_but_not_the_one_to_resume(run) -> None:
    save(run, "joint-5")
    for number in (2, 3, 4):
        save(run, f"push-5-{number}", resume=False)
    assert find_checkpoint(run.folder).name == "push-5-4"
    assert find_resumable(run.folder).name == "joint-5"
    assert (find_resumable(run.folder) / "resume.safetensors").exists()


def test_saving_under_the_same_name_replaces(run) -> None:
    save(run, "joint-1")
    with torch.no_grad():
        run.model.prototype_layer.prototypes.fill_(0.5)
    save(run, "joint-1")
    assert (load_model(run.folder)[0].prototype_layer.prototypes == 0.5).all()
    assert folders(run) == {"joint-1"}


def test_leftovers_of_a_kill_are_removed(run) -> None:
    save(run, "joint-1")
    litter = checkpoints_folder(run.folder) / ".joint-2.123.tmp"
    litter.mkdir()
    (litter / "model.safetensors").write_bytes(b"half")
    index = checkpoints_folder(run.folder) / ".latest.json.123.tmp"  # a file, killed before it got its name
    index.write_bytes(b"half")
    assert find_checkpoint(run.folder).name == "joint-1"
    save(run, "joint-2")
    assert not litter.exists()
    assert not index.exists()


@pytest.mark.parametrize("sync_that_fails", [1, 2, 3, 4, 5, 6])
def test_a_full_disk_at_any_moment_leaves_a_whole_latest_checkpoint(run, monkeypatch, sync_that_fails) -> None:
    save(run, "joint-1")
    first = run.model.prototype_layer.prototypes.detach().clone()
    with torch.no_grad():
        run.model.prototype_layer.prototypes.fill_(0.5)
    calls = []
    real = files.os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(1)
        if len(calls) == sync_that_fails:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(run, "joint-2")
    monkeypatch.undo()
    model, _, _ = load_model(run.folder)
    prototypes = model.prototype_layer.prototypes.detach()
    assert torch.equal(prototypes, first) or (prototypes == 0.5).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: run.folder / "nothing", "must be a run folder or a checkpoint; it does not exist"),
        (lambda run: run.folder, "must be a run folder with a checkpoint; it has none"),
    ],
)
def test_a_path_without_a_checkpoint_is_named(run, make, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(make(run))


def test_a_broken_weights_file_is_named(run) -> None:
    weights = save(run, "joint-1") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"joint-1/model\.safetensors: is not whole"):
        load_model(run.folder)


def test_weights_of_another_model_are_refused(run, tmp_path) -> None:
    path = save(run, "joint-1")
    state = json.loads((path / "state.json").read_text())
    state["config"]["model"]["prototype_dim"] = 16
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"the weights do not fit the model: size mismatch for .*"):
        load_model(run.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "novel"}, r"joint-1: holds a model 'novel', which this version does not have\. It has protopnet, .*"),
        ({"novelty": 3}, r"joint-1: holds settings of a protopnet that this version does not have: novelty\. Update"),
    ],
    ids=["model", "setting"],
)
def test_a_checkpoint_of_a_newer_version_is_refused(run, change, message) -> None:
    path = save(run, "joint-1")
    state = json.loads((path / "state.json").read_text())
    state["config"]["model"] |= change
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=message):
        load_model(run.folder)


def test_a_checkpoint_of_another_format_is_refused(run) -> None:
    path = save(run, "joint-1")
    (path / "state.json").write_text('{"format": "something-else"}')
    with pytest.raises(CheckpointError, match="must be of format protokern-checkpoint-1"):
        load_model(run.folder)


def test_no_pickle_is_written(run) -> None:
    save(run, "joint-1")
    names = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}
