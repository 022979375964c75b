from __future__ import annotations

import json

import pytest
import torch

from protokern.errors import CheckpointError
from protokern.models.base import vectors_of
from protokern.push import PushResult
from protokern.runs import checkpoints
from protokern.runs.checkpoint_index import checkpoints_folder
from protokern.runs.checkpoints import (
    CheckpointState,
    find_checkpoint,
    find_resumable,
    push_from_table,
    push_to_table,
    read_checkpoint,
    save_checkpoint,
)
from protokern.runs.open import load_model, open_run
from protokern.storage import files
from tests.train.tampering import change_table, change_tensors
from tests.train.toy import CLASSES, toy_config, toy_run

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
    state = CheckpointState(
        config=run.job.config, classes=CLASSES, stage=stage, epoch=int(epoch), push=push, progress={}
    )
    tensors = {"random/torch": torch.get_rng_state()} if resume else None
    return save_checkpoint(run.job.folder, name, run.model, state, resume=tensors, keep=keep)


def folders(run) -> set[str]:
    return {path.name for path in checkpoints_folder(run.job.folder).iterdir() if path.is_dir()}


def test_a_model_comes_back_with_the_same_answers(run) -> None:
    images = torch.rand(3, 3, 16, 16)
    expected = run.model.eval()(images)
    path = save(run, "joint-4", push=PUSH)
    for source in (run.job.folder, path, str(run.job.folder)):
        model, config, classes = load_model(source)
        assert not model.training
        assert torch.equal(model(images).logits, expected.logits)
        assert config == run.job.config
        assert classes == CLASSES


def test_a_pruned_model_comes_back_without_the_pruned_prototypes(run) -> None:
    run.model.keep_prototypes([0, 3, 5])
    images = torch.rand(3, 3, 16, 16)
    expected = run.model.eval()(images).logits
    save(run, "prune-4")
    model, _, _ = load_model(run.job.folder)
    assert model.num_prototypes == 3
    assert torch.equal(model.class_identity, torch.eye(3))
    assert torch.equal(model(images).logits, expected)


def test_loading_reads_no_file_of_pretrained_weights(tmp_path) -> None:
    config = toy_config()
    run = toy_run(tmp_path / "run", config)
    run.job.config["model"]["weights"] = "/nowhere/weights.safetensors"
    save(run, "joint-0")
    assert load_model(run.job.folder)[0].num_prototypes == 6


def test_where_prototypes_come_from_is_kept_exactly(run) -> None:
    state = read_checkpoint(save(run, "push-4", push=PUSH)).state
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
        name for name in folders(run) if (checkpoints_folder(run.job.folder) / name / "resume.safetensors").exists()
    }
    assert with_resume == {"joint-2", "joint-4", "joint-5"}


def test_a_checkpoint_of_another_command_is_the_latest_but_not_the_one_to_resume(run) -> None:
    save(run, "joint-5")
    for number in (2, 3, 4):
        save(run, f"push-5-{number}", resume=False)
    assert find_checkpoint(run.job.folder).name == "push-5-4"
    assert find_resumable(run.job.folder).name == "joint-5"
    assert (find_resumable(run.job.folder) / "resume.safetensors").exists()


def test_a_checkpoint_is_never_written_again(run) -> None:
    """A kill between its removal and the new one's coming would leave a run without what it goes on from."""
    first = save(run, "joint-1")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    with torch.no_grad():
        run.model.prototype_layer.prototypes.fill_(0.5)
    assert save(run, "joint-1").name == "joint-1-2"
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert (vectors_of(load_model(run.job.folder)[0]) == 0.5).all()
    assert save(run, "joint-1").name == "joint-1-3"
    assert folders(run) == {"joint-1-2", "joint-1-3"}


def test_a_folder_that_a_kill_kept_out_of_the_index_is_written_anew(run) -> None:
    save(run, "joint-1")
    unnamed = checkpoints_folder(run.job.folder) / "joint-2"
    unnamed.mkdir()
    (unnamed / "state.json").write_text("half")
    assert save(run, "joint-2") == unnamed
    assert read_checkpoint(unnamed).state.stage == "joint"


def test_what_somebody_put_into_a_checkpoint_stays(run) -> None:
    notes = save(run, "joint-1") / "notes.txt"
    notes.write_text("mine")
    unnamed = checkpoints_folder(run.job.folder) / "joint-3" / "notes.txt"
    unnamed.parent.mkdir()
    unnamed.write_text("mine")
    for epoch in (2, 3, 4, 5):
        save(run, f"joint-{epoch}")
    assert notes.read_text() == unnamed.read_text() == "mine"
    assert load_model(notes.parent)[0].num_prototypes == 6
    assert folders(run) == {"joint-1", "joint-3", "joint-4", "joint-5"}


def test_what_training_comes_back_to_outlives_the_checkpoints_of_other_commands(run) -> None:
    for name in ("joint-1", "joint-2", "joint-3"):
        save(run, name, keep={"joint-1"})
    for number in (2, 3, 4):
        save(run, f"push-3-{number}", resume=False)
    assert {"joint-1", "joint-3"} <= folders(run)
    assert (checkpoints_folder(run.job.folder) / "joint-1" / "resume.safetensors").exists()
    save(run, "joint-4", keep={"joint-4"})
    assert "joint-1" not in folders(run)


def test_leftovers_of_a_kill_are_removed(run) -> None:
    save(run, "joint-1")
    litter = checkpoints_folder(run.job.folder) / ".joint-2.123.tmp"
    litter.mkdir()
    (litter / "model.safetensors").write_bytes(b"half")
    index = checkpoints_folder(run.job.folder) / ".latest.json.123.tmp"  # a file, killed before it got its name
    index.write_bytes(b"half")
    assert find_checkpoint(run.job.folder).name == "joint-1"
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
    model, _, _ = load_model(run.job.folder)
    prototypes = vectors_of(model).detach()
    assert torch.equal(prototypes, first) or (prototypes == 0.5).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: run.job.folder / "nothing", "must be a run folder or a checkpoint; it does not exist"),
        (lambda run: run.job.folder, "must be a run folder with a checkpoint; it has none"),
    ],
)
def test_a_path_without_a_checkpoint_is_named(run, make, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(make(run))


def test_a_broken_weights_file_is_named(run) -> None:
    weights = save(run, "joint-1") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"joint-1/model\.safetensors: is not whole"):
        load_model(run.job.folder)


@pytest.mark.parametrize("prototypes", [torch.tensor(1.0), torch.zeros(0, 4)], ids=["a number", "none"])
def test_weights_without_prototypes_are_refused(run, prototypes) -> None:
    path = save(run, "joint-4")
    change_tensors(
        path / "model.safetensors", lambda tensors: tensors.update({"prototype_layer.prototypes": prototypes})
    )
    with pytest.raises(CheckpointError, match=r"joint-4: the weights do not fit the model"):
        load_model(run.job.folder)


def test_weights_of_another_model_are_refused(run, tmp_path) -> None:
    path = save(run, "joint-1")
    change_table(path / "state.json", lambda state: state["config"]["model"].update(prototype_dim=16))
    with pytest.raises(CheckpointError, match=r"the weights do not fit the model: size mismatch for .*"):
        load_model(run.job.folder)


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
    change_table(path / "state.json", lambda state: state["config"]["model"].update(change))
    with pytest.raises(CheckpointError, match=message):
        load_model(run.job.folder)


def test_a_checkpoint_of_another_format_is_refused(run) -> None:
    path = save(run, "joint-1")
    (path / "state.json").write_text('{"format": "something-else"}')
    with pytest.raises(CheckpointError, match=r"state\.json: must be of format protokern-checkpoint-2; got .some"):
        load_model(run.job.folder)


@pytest.mark.parametrize("file", ["latest.json", "joint-1/state.json"])
def test_a_newer_format_is_refused_by_name(run, file) -> None:
    save(run, "joint-1")
    path = checkpoints_folder(run.job.folder) / file
    change_table(path, lambda table: table.update(format=table["format"][:-1] + "9"))
    message = (
        rf"{path.name}: is of format protokern-checkpoints?-9; this version reads up to .*-[12]\. Update protokern\."
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(run.job.folder)


def test_a_checkpoint_of_the_first_format_without_checksums_is_read(run) -> None:
    path = save(run, "joint-1", push=PUSH)
    state, index = (json.loads(file.read_text()) for file in (path / "state.json", path.parent / "latest.json"))
    old = {key: value for key, value in state.items() if key not in ("checksum", "files")}
    (path / "state.json").write_text(json.dumps({**old, "format": "protokern-checkpoint-1"}))
    (path.parent / "latest.json").write_text(json.dumps({key: index[key] for key in ("latest", "resume", "written")}))
    assert load_model(run.job.folder)[1] == run.job.config
    assert save(run, "joint-2").name == "joint-2"
    assert folders(run) == {"joint-1", "joint-2"}


EVIL = ("../../precious", "/etc", "..", "joint-1/../../..", ".hidden", "joint-1\0", 7)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("key", ["latest", "resume", "written", "needed"])
def test_names_that_lead_out_of_the_run_folder_are_refused(run, tmp_path, key, name) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    save(run, "joint-1")
    latest = checkpoints_folder(run.job.folder) / "latest.json"
    change_table(latest, lambda index: index.update({key: name if key in ("latest", "resume") else [name]}))
    for action in (load_model, find_resumable):
        with pytest.raises(CheckpointError, match="must name checkpoints by letters"):
            action(run.job.folder)
    with pytest.raises(CheckpointError, match="must name checkpoints by letters"):
        save(run, "joint-2")
    assert precious.is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"prototypes_per_class": 10**12},
        {"prototype_dim": 10**7},
        {"prototype_size": [10**6, 10**6]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_a_gigantic_model_take_no_memory(run, change) -> None:
    path = save(run, "joint-1")
    change_table(path / "state.json", lambda state: state["config"]["model"].update(change))
    with pytest.raises(CheckpointError, match=r"must fit into half of this machine|must fit the feature grid"):
        load_model(run.job.folder)


def test_a_gigantic_image_takes_no_memory(run) -> None:
    path = save(run, "joint-1")
    change_table(path / "state.json", lambda state: state["config"]["data"].update(image_size=[10**6, 10**6]))
    with pytest.raises(CheckpointError, match="must fit into half of this machine"):
        load_model(run.job.folder)


def test_a_weights_file_that_is_larger_than_the_model_is_not_read(run) -> None:
    path = save(run, "joint-1") / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(10**13)  # a file with a hole, which takes no space
    with pytest.raises(CheckpointError, match=r"model\.safetensors: must have at most \d+ bytes; got 10000000000000"):
        load_model(run.job.folder)


@pytest.mark.parametrize("name", ["model.safetensors", "resume.safetensors"])
def test_a_flipped_bit_in_the_tensors_is_found(run, name) -> None:
    path = save(run, "joint-1") / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: is not whole: its checksum differs from what was written"):
        read_checkpoint(path.parent).read_tensors(name, at_most=10**8)


def test_no_pickle_is_written(run) -> None:
    save(run, "joint-1")
    names = {path.suffix for path in run.job.folder.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["report", "prototypes", "log.jsonl", "checkpoints/joint-7"])
def test_links_that_lead_out_of_the_run_folder_are_refused(run, tmp_path, name) -> None:
    save(run, "joint-1")
    (tmp_path / "precious").mkdir()
    (run.job.folder / name).symlink_to(tmp_path / "precious")
    for action in (load_model, find_resumable):
        with pytest.raises(CheckpointError, match=rf"{name}: must not be a link that leads out of the run folder"):
            action(run.job.folder)


def test_a_run_folder_may_be_a_link_and_have_links_inside(run, tmp_path) -> None:
    save(run, "joint-1")
    (tmp_path / "elsewhere").symlink_to(run.job.folder)
    (run.job.folder / "best").symlink_to("checkpoints/joint-1")
    assert load_model(tmp_path / "elsewhere")[0].num_prototypes == run.model.num_prototypes


def test_opening_and_resuming_a_run_read_each_file_once(run, monkeypatch) -> None:
    names = []
    read_file = files.read_file

    def count(path, at_most: int) -> bytes:
        names.append(path.name)
        return read_file(path, at_most)

    run.save("init-0")
    monkeypatch.setattr(files, "read_file", count)
    monkeypatch.setattr(checkpoints, "read_file", count)
    open_run(str(run.job.folder), data=None, changes=(), device=torch.device("cpu"))
    assert sorted(names) == ["latest.json", "model.safetensors", "state.json"]
    names.clear()
    run.resume(read_checkpoint(find_resumable(run.job.folder)))
    assert sorted(names) == ["latest.json", "model.safetensors", "resume.safetensors", "state.json"]
