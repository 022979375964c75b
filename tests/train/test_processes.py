"""Several processes train as one would, end together, and say one line about a mistake."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from protokern.cli.main import main
from protokern.errors import ConfigError, DataError, TrainingError
from protokern.models.base import vectors_of
from protokern.ranks import SINGLE, Ranks
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import EpochRecord, read_log
from protokern.train.events import RunStopped
from protokern.train.head_stages import prune_step, push_step
from protokern.train.loop import train
from protokern.train.processes import device_of_process, joined_ranks
from protokern.train.state import TrainingRun

from .processes import CPU, POOL, TREE, birds_config, birds_run, end_of, said, start_ranks

SMALL = {
    "model.backbone": "tiny",
    "model.prototypes_per_class": 1,
    "model.prototype_dim": 8,
    "data.image_size": 32,
    "data.birds_classes": 2,
    "data.birds_train": 8,
    "data.birds_val": 2,
    "data.birds_test": 2,
    "train.batch_size": 4,
    "train.warm_epochs": 0,
    "train.joint_epochs": 100000,
    "train.patience": 0,
    "train.batch_norm": "frozen",
}
SETS = ["--recipe", "paper", *(part for key, value in SMALL.items() for part in ("--set", f"{key}={value}"))]


def train_birds(folder: Path, settings: dict) -> int:
    with joined_ranks(CPU) as ranks:
        run = birds_run(folder, birds_config(**settings), ranks)
        for _ in train(run):
            pass
    return 0


def push_and_prune(folder: Path, batch_size: int, rule: str) -> int:
    with joined_ranks(CPU) as ranks:
        run = birds_run(folder, birds_config(batch_size=batch_size, rule=rule), ranks)
        torch.save(measures(run), folder / f"{ranks.rank}-of-{ranks.size}.pt")
    return 0


def measures(run: TrainingRun) -> dict:
    """What push and prune of the untrained net give."""
    record = push_step(run)[-1]
    assert run.push is not None
    push = {name: getattr(run.push, name) for name in ("image", "patch", "distance", "label")}
    after_push = vectors_of(run.model).detach().clone()
    prune_step(run)
    return {
        **push,
        "after_push": after_push,
        "after_prune": vectors_of(run.model).detach().clone(),
        "weight": run.model.prototype_weight.detach().clone(),
        "accuracy": torch.tensor([record.val_accuracy, record.test_accuracy]),
    }


# With 21 images three ranks have batches of 8, 8 and 5 images; with batches of 16 one of them has none.
@pytest.mark.parametrize(("size", "batch_size", "rule"), [(2, 8, "compat"), (3, 16, "compat"), (3, 16, "needed")])
def test_push_and_prune_give_the_same_bits_in_several_processes(tmp_path, size, batch_size, rule) -> None:
    alone = measures(birds_run(tmp_path, birds_config(batch_size=batch_size, rule=rule), SINGLE))
    assert rule == "compat" or len(alone["after_prune"]) < len(alone["after_push"])
    logs = tmp_path / "logs"
    codes = end_of(start_ranks(size, push_and_prune, tmp_path, batch_size, rule, logs=logs))
    assert codes == [0] * size, said(logs)
    for rank in range(size):
        together = torch.load(tmp_path / f"{rank}-of-{size}.pt", weights_only=True)
        for name, value in alone.items():
            assert torch.equal(value, together[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_clip": 1.0, "accumulation": 3, "live_epochs": 1, "live_lr": 1e-2},
        {"model": POOL, "mixup": 0.5, "live_epochs": 1},
        {"model": TREE, "accumulation": 2, "live_epochs": 1},
        {"backbone": "frozen", "mixup": 0.5, "live_epochs": 1, "prototype_start": "patches"},
    ],
    ids=["protopnet", "pool with mixup", "tree", "stored features with mixup, started at patches"],
)
def test_two_processes_train_as_one(tmp_path, settings) -> None:
    settings = {**settings, "last_layer_solver": "compat"}  # two solutions within the gap may differ by more than 1e-4
    list(train(birds_run(tmp_path / "alone", birds_config(**{**settings, "accumulation": 1}), SINGLE)))
    logs = tmp_path / "logs"
    codes = end_of(start_ranks(2, train_birds, tmp_path / "two", settings, logs=logs))
    assert codes == [0, 0], said(logs)
    alone, two = (read_log(tmp_path / name / "log.jsonl") for name in ("alone", "two"))
    assert [line["kind"] for line in alone] == [line["kind"] for line in two]
    for one, other in zip(alone, two, strict=True):
        numbers = {name: value for name, value in one.items() if isinstance(value, float) and name != "seconds"}
        numbers |= one.get("terms", {})
        assert numbers == pytest.approx({name: {**other, **other.get("terms", {})}[name] for name in numbers}, rel=1e-4)
    assert (tmp_path / "two" / "metrics.json").exists()


def train_with_and_without_a_stop(folder: Path) -> int:
    config = birds_config(model=POOL, mixup=0.5, hardening_epochs=0, joint_epochs=1)
    with joined_ranks(CPU) as ranks:
        straight = birds_run(folder / "straight", config, ranks)
        list(train(straight))

        def should_stop() -> bool:
            return ranks.rank == 1 and run.progress.epoch == 0 and run.progress.batch == 2

        run = birds_run(folder / "stopped", config, ranks, should_stop)
        *_, last = train(run)
        assert last == RunStopped(folder / "stopped" / "checkpoints" / "joint-1-batch-2")
        resumed = birds_run(folder / "stopped", config, ranks)
        checkpoint = find_resumable(folder / "stopped")
        assert checkpoint is not None
        resumed.resume(read_checkpoint(checkpoint))
        assert resumed.progress.batch == 2
        list(train(resumed))
        for (name, one), other in zip(
            straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name
    return 0


def test_a_run_of_two_processes_that_was_stopped_in_one_of_them_resumes_to_the_same_bits(tmp_path) -> None:
    logs = tmp_path / "logs"
    assert end_of(start_ranks(2, train_with_and_without_a_stop, tmp_path, logs=logs)) == [0, 0], said(logs)


def fail_on_the_second(folder: Path) -> int:
    from protokern.cli import training as verb

    def bad(*_, **__):
        raise DataError("b.png: cannot be read.")

    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            patch.setattr(verb, "open_data", bad)
        return main(["train", "--out", str(folder), *SETS])


def run_main(arguments: list[str]) -> int:
    return main(arguments)


def test_a_mistake_of_one_process_is_one_line(tmp_path) -> None:
    logs = tmp_path / "logs"
    codes = end_of(start_ranks(2, fail_on_the_second, tmp_path / "run", logs=logs))
    assert codes == [2, 2]
    assert said(logs) == ["protokern train: b.png: cannot be read."]
    assert not (tmp_path / "run").exists()


def run_main_in(folder: Path) -> int:
    os.chdir(folder)
    return main(["train", *SETS])


def test_several_processes_are_told_their_folder(tmp_path) -> None:
    (tmp_path / "here").mkdir()
    codes = end_of(start_ranks(2, run_main_in, tmp_path / "here", logs=tmp_path / "logs"))
    assert codes == [2, 2]
    (line,) = said(tmp_path / "logs")
    assert line == (
        "protokern train: --out: must be given to several processes, which write one run; got none. Give --out RUN."
    )
    assert list((tmp_path / "here").iterdir()) == []


def fail_while_the_first_is_stopped(folder: Path) -> int:
    """As torchrun does it, which sends SIGTERM to all as soon as one has failed; only earlier."""
    from protokern.cli import training as verb

    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))

    def fail(run):
        for record in train(run):
            yield record
            if isinstance(record, EpochRecord):
                os.kill(int((folder / "0.pid").read_text()), signal.SIGTERM)
                raise TrainingError("loss: is not finite.")

    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            patch.setattr(verb, "train", fail)
        return main(["train", "--out", str(folder / "run"), *SETS])


def test_a_failure_in_one_process_is_one_line_though_the_others_are_stopped_for_it(tmp_path) -> None:
    logs = tmp_path / "logs"
    codes = end_of(start_ranks(2, fail_while_the_first_is_stopped, tmp_path, logs=logs))
    assert said(logs) == ["protokern train: loss: is not finite."]
    assert codes == [2, 2]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--set", "train.seeed=1"], "protokern train: train.seeed: no such key"),
        (["--set", "train.seed"], "protokern train: --set: must be section.key=value; got 'train.seed'."),
        (["--oops"], "protokern: unrecognized arguments: --oops"),
        (
            ["--recipe", "paper", "--set", "model.backbone=tiny"],
            'protokern train: train.batch_norm: must be "frozen" with 2 processes',
        ),
    ],
)
def test_a_mistake_of_all_processes_is_one_line_too(tmp_path, flags, line) -> None:
    logs = tmp_path / "logs"
    command = ["train", "--out", str(tmp_path / "run"), *flags]
    codes = end_of(start_ranks(2, run_main, command, logs=logs))
    assert codes == [2, 2]
    assert [one[: len(line)] for one in said(logs)] == [line]


@pytest.mark.parametrize("place", [3, -3], ids=["part of the first", "part of the second"])
def test_damage_in_a_feature_store_is_one_line_whichever_process_checks_it(tmp_path, place) -> None:
    sets = [*SETS, "--set", "train.backbone=frozen", "--set", "data.birds_train=40", "--set", "train.joint_epochs=1"]
    sets += ["--set", f'data.feature_store="{tmp_path / "stores"}"', "--device", "cpu"]
    assert main(["train", "--out", str(tmp_path / "first"), *sets]) == 0
    file = tmp_path / "stores" / "train" / "features.bin"  # 80 images: a chunk for each process
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    logs = tmp_path / "logs"
    codes = end_of(start_ranks(2, run_main, ["train", "--out", str(tmp_path / "run"), *sets], logs=logs))
    assert codes == [2, 2]
    (line,) = said(logs)
    assert line.startswith(f"protokern train: {file}: is damaged at images {0 if place > 0 else 64} to ")


def wait_for_epochs(folder: Path, count: int, *, seconds: float = 60) -> None:
    """Until the log has that many lines and a checkpoint follows."""
    deadline = time.monotonic() + seconds
    while len(read_log(folder / "log.jsonl")) < count:
        assert time.monotonic() < deadline, "no epoch in time"
        time.sleep(0.05)


def test_when_one_process_is_killed_the_other_ends_at_once_and_the_run_resumes(tmp_path) -> None:
    folder, logs = tmp_path / "run", tmp_path / "logs"
    processes = start_ranks(2, run_main, ["train", "--out", str(folder), *SETS], logs=logs)
    wait_for_epochs(folder, 3)
    processes[1].kill()
    started = time.monotonic()
    codes = end_of(processes, seconds=30)
    assert codes == [2, -signal.SIGKILL]
    assert time.monotonic() - started < 10
    assert [line.partition(",")[0] for line in said(logs)] == ["protokern train: process 0 of 2 has lost another one"]

    lines = len(read_log(folder / "log.jsonl"))
    processes = start_ranks(2, run_main, ["train", "--out", str(folder), "--resume"], logs=logs)
    wait_for_epochs(folder, lines + 2)
    deadline = time.monotonic() + 4
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        for process in processes:  # from the scheduler, from torchrun again, and late: as one of them ends already
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                os.kill(process.pid, signal.SIGINT)
        time.sleep(0.01)
    assert end_of(processes, seconds=30) == [130, 130]
    (line,) = said(logs)
    assert line.startswith("protokern train: stopped. The last checkpoint is ")
    epochs = [entry["epoch"] for entry in read_log(folder / "log.jsonl") if entry["kind"] == "epoch"]
    assert epochs == list(range(len(epochs)))
    assert json.loads((folder / "checkpoints" / "latest.json").read_text())["resume"] is not None


def test_every_process_of_a_machine_needs_a_gpu_of_its_own(monkeypatch) -> None:
    assert device_of_process(torch.device("cuda")) == torch.device("cuda")  # without torchrun
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert device_of_process(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="a GPU to each of the 2 processes of this machine; got cuda and 1 GPUs"):
        device_of_process(torch.device("cuda"))
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert device_of_process(torch.device("cuda")) == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(ConfigError, match="got cuda:0 and 2 GPUs"):
        device_of_process(torch.device("cuda:0"))


def test_one_process_alone_talks_to_nobody() -> None:
    values = torch.arange(3)
    assert Ranks() == SINGLE
    assert SINGLE.gather(values)[0] is values
    assert SINGLE.gather_to_first(values)[0] is values
    assert SINGLE.sum([0.5, 2.0]) == [0.5, 2.0]
    assert SINGLE.any(True)
    assert list(SINGLE.part_of(range(5))) == [0, 1, 2, 3, 4]
    module = torch.nn.Linear(1, 1)
    assert SINGLE.parallel(module) is module


def test_only_train_runs_in_several_processes(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, line in (("0", "protokern doctor: torchrun: must start 'train', which alone"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["doctor"]) == 2
        assert capsys.readouterr().err.startswith(line)
