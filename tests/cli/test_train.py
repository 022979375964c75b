"""`protokern train` as a process: run folder, resume after a kill, signals, what may change on resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from protokern.cli.main import main
from protokern.runs.log import read_log
from tests.cli.pushed_run import write_photos

SETTINGS = {
    "model.backbone": "tiny",
    "model.prototypes_per_class": "2",
    "model.prototype_dim": "8",
    "data.image_size": "32",
    "data.val_fraction": "0.34",
    "train.batch_size": "4",
    "train.warm_epochs": "1",
    "train.joint_epochs": "3",
    "train.last_layer_epochs": "2",
}
ENDLESS = {"train.joint_epochs": "100000", "train.patience": "0"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


def command(photos: Path, out: Path, *flags: str, **changes: str) -> list[str]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["train", "--recipe", "paper", "--data", str(photos), "--out", str(out), *sets, *flags]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    latest = json.loads((run / "checkpoints" / "latest.json").read_text())["latest"]
    weights: dict[str, torch.Tensor] = load_file(run / "checkpoints" / latest / "model.safetensors")
    return weights


def start(arguments: list[str], *, start_new_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "protokern", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=start_new_session,
    )


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"joint epoch {epoch}:"):
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_plain_lines_without_a_terminal(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protokern.cli.show._SlowWork.EVERY", 3600)  # a slow machine has more to tell
    assert main(command(photos, tmp_path / "run")) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if not line.startswith("warning: ")]
    epochs = ["warm epoch 0: loss", "joint epoch 1: loss", "joint epoch 2: loss", "joint epoch 3: loss"]
    stages = ["after joint, epoch", "after push, epoch", "after last layer, epoch"]
    # A cell of the tiny net sees 31 x 31 of the 32 x 32 pixels.
    patches = "images have 4 x 4 patches, of which one in the middle sees 94% of the image"
    closing = ["accuracy: ", "weakest class: ", "warnings: ", "report: ", "next: "]
    starts = ["data: 20 files: ", "no folder val/", patches, "plan: 4 epochs of ", *epochs, *stages, *closing]
    assert len(lines) == len(starts)
    for line, beginning in zip(lines, starts, strict=True):
        assert line.startswith(beginning)
        assert "\x1b" not in line


def test_the_page_can_be_left_to_report(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run, "--no-report")) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"report: none, as --no-report asks; next: protokern report {run}"
    assert (run / "prototypes" / "prototypes.json").exists()
    assert not (run / "report").exists()
    assert main(["report", str(run)]) == 0
    assert (run / "report" / "index.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    with start(command(photos, run, **ENDLESS)) as process:
        wait_for_epoch(process, 3)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error.startswith("protokern train: stopped. The last checkpoint is ")
    assert error.endswith("; go on with --resume.\n")
    assert error.count("\n") == 1
    latest = json.loads((run / "checkpoints" / "latest.json").read_text())["latest"]
    assert latest in error
    with start(command(photos, run, "--resume", **ENDLESS)) as process:
        wait_for_epoch(process, 5)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
    epochs = [line["epoch"] for line in read_log(run / "log.jsonl") if line["kind"] == "epoch"]
    assert epochs == list(range(len(epochs)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_that_reaches_the_workers_too_is_left_to_the_main_process(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = command(photos, tmp_path / "run", data__workers="1", **ENDLESS)
    with start(arguments, start_new_session=True) as process:
        wait_for_epoch(process, 1)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error.startswith("protokern train: stopped. The last checkpoint is ")
    assert error.count("\n") == 1


def test_a_killed_run_ends_as_if_nothing_had_happened(photos: Path, tmp_path: Path) -> None:
    """Killed without mercy in the middle of training, and resumed: the same bits as a run in one go."""
    changes = {"train__joint_epochs": "12", "train__patience": "0"}
    assert main(command(photos, tmp_path / "whole", **changes)) == 0
    killed = tmp_path / "killed"
    with start(command(photos, killed, **changes)) as process:
        wait_for_epoch(process, 4)
        time.sleep(0.05)
        process.kill()
        process.communicate(timeout=60)
    assert not (killed / "metrics.json").exists()
    assert main(["train", "--out", str(killed), "--resume"]) == 0
    whole, resumed = final_weights(tmp_path / "whole"), final_weights(killed)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    one, other = (json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "whole", killed))
    assert one["stages"] == other["stages"]


def test_a_finished_run_is_resumed_to_its_pages(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run)) == 0
    before = final_weights(run)
    (run / "report" / "index.html").unlink()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert (run / "report" / "index.html").exists()
    assert all(torch.equal(value, before[name]) for name, value in final_weights(run).items())


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(command(photos, run)) == 0
    return run


def test_the_same_command_line_resumes(photos: Path, finished: Path) -> None:
    assert main(command(photos, finished, "--resume")) == 0


def test_other_settings_are_refused_on_resume(photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(finished), "--resume", "--set", "train.joint_epochs=9"]) == 2
    error = capsys.readouterr().err
    assert f"train.joint_epochs: must stay 3, as in {finished}/run.toml, to resume; got 9." in error
    assert error.count("\n") == 1


def test_other_data_are_refused_on_resume(
    photos: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "more")
    extra = tmp_path / "more" / "test" / "down"
    (extra / "new.png").write_bytes((extra / "0.png").read_bytes())
    assert main(["train", "--out", str(finished), "--resume", "--data", str(tmp_path / "more")]) == 2
    assert "data: must be that of the run to resume it" in capsys.readouterr().err


def test_as_many_images_of_other_names_are_refused_on_resume(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "other")
    image = tmp_path / "other" / "test" / "down" / "0.png"
    image.rename(image.with_name("new.png"))
    assert main(["train", "--out", str(finished), "--resume", "--data", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err == (
        "protokern train: data: must be that of the run to resume it; got as many images, but of other names or "
        "classes in test. Give the same folder, or start a new run.\n"
    )


def test_the_data_may_have_moved(finished: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "moved")
    assert main(["train", "--out", str(finished), "--resume", "--data", str(tmp_path / "moved")]) == 0


def test_nothing_to_resume_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path / "none"), "--resume"]) == 2
    assert "has no run.toml, so no run to go on with. Leave out --resume." in capsys.readouterr().err


def test_a_run_killed_before_its_first_checkpoint_starts_anew(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run)) == 0
    expected = final_weights(run)
    for name in ("checkpoints", "prototypes", "report"):
        for path in sorted((run / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (run / name).rmdir()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert all(torch.equal(value, expected[name]) for name, value in final_weights(run).items())
    epochs = [line["epoch"] for line in read_log(run / "log.jsonl") if line["kind"] == "epoch"]
    assert epochs == [0, 1, 2, 3]


def test_seeds_change_the_outcome_and_nothing_else_does(photos: Path, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("a", "b", "c")}
    assert main(command(photos, runs["a"])) == 0
    torch.rand(3)
    assert main(command(photos, runs["b"])) == 0
    assert main(command(photos, runs["c"], train__seed="1")) == 0
    first = final_weights(runs["a"])
    assert all(torch.equal(value, first[name]) for name, value in final_weights(runs["b"]).items())
    assert any(not torch.equal(value, first[name]) for name, value in final_weights(runs["c"]).items())
