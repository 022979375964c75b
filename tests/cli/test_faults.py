"""Errors that nobody expected: those of libraries become one line, ours are admitted, and written down whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from protokern.cli import doctor, evaluate, faults, main
from protokern.cli.faults import mistake_in_words
from tests.cli.pushed_run import make_run, write_photos
from tests.cli.test_bad_input import FAST, mistake


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, module: object = doctor) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(module, "run", fail)


def raised(action) -> BaseException:
    """What a library really raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        action()
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            raised(lambda: nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))),
            ["train.batch_size: must be at least 2", "train.batch_norm", "data.image_size"],
        ),
        (raised(lambda: torch.empty(2**45)), ["too little memory", "train.batch_size", "data.image_size"]),
        (raised(lambda: torch.empty(2**62, dtype=torch.uint8)), ["too little memory"]),
        (raised(lambda: np.empty(2**50)), ["too little memory", "Unable to allocate"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore"), ["the device has too little memory"]),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel"), ["the GPU or its driver"]),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), ["PYTHONIOENCODING=utf-8"]),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"), ["matplotlib: is needed and cannot"]),
    ],
    ids=["batch-norm", "cpu-memory", "overflow", "numpy-memory", "gpu-memory", "gpu", "encoding", "requirement"],
)
def test_an_error_of_a_library_is_one_line(error, words, monkeypatch, capsys) -> None:
    fail_with(error, monkeypatch)
    assert main.main(["doctor"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("protokern doctor: ")
    assert told.count("\n") == 1
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), RuntimeError("shapes differ"), KeyError("logits"), ImportError()]
)
def test_an_error_of_our_own_is_no_mistake_of_the_user(error) -> None:
    assert mistake_in_words(error) is None


def test_a_fault_is_admitted_and_written_down(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(faults.tempfile, "gettempdir", lambda: str(tmp_path))
    fail_with(ZeroDivisionError("division by zero\nand more"), monkeypatch)
    assert main.main(["doctor"]) == 1
    told = capsys.readouterr().err
    (path,) = tmp_path.iterdir()
    assert told == (
        "protokern doctor: an error that protokern should not make: ZeroDivisionError: division by zero. Please "
        f"report it where you got protokern from, and add {path}, which has the command, versions and the traceback.\n"
    )
    written = path.read_text()
    assert written.startswith("protokern doctor\n")
    assert "Traceback (most recent call last)" in written
    assert "in fail\n" in written
    assert f"torch {torch.__version__}" in written


def test_the_file_of_a_fault_lies_in_the_run_and_replaces_none(tmp_path, monkeypatch, capsys) -> None:
    run = make_run(tmp_path).folder
    fail_with(AssertionError(), monkeypatch, evaluate)
    before = {path.name for path in run.iterdir()}
    for target in (run, run / "checkpoints" / "push-2"):
        assert main.main(["evaluate", str(target)]) == 1
    new = {path.name for path in run.iterdir()} - before
    assert len(new) == 2
    assert all(name.startswith("protokern-error-") and name.endswith(".log") for name in new)
    assert str(run) in capsys.readouterr().err


def test_a_fault_without_a_place_for_a_file_says_how_to_see_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr(faults.tempfile, "gettempdir", lambda: "/nowhere")
    fail_with(ZeroDivisionError(), monkeypatch)
    assert main.main(["doctor"]) == 1
    assert "add what the same command says with --debug.\n" in capsys.readouterr().err


def test_a_requirement_that_is_broken_is_one_line_also_while_the_verb_is_imported(monkeypatch, capsys) -> None:
    def fail(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(main, "import_module", fail)
    assert main.main(["doctor"]) == 2
    assert capsys.readouterr().err == (
        "protokern doctor: torch: is needed and cannot be imported (No module named 'torch'). Run pip install "
        "--upgrade torch.\n"
    )


def test_debug_shows_the_traceback_of_a_library(monkeypatch) -> None:
    fail_with(MemoryError(), monkeypatch)
    with pytest.raises(MemoryError):
        main.main(["doctor", "--debug"])


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As `protokern doctor | true`."""
    command = [sys.executable, "-c", "import sys; from protokern.cli.main import main; sys.exit(main(['doctor']))"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.backbone=resnet18", "train.batch_size=1"], ["train.batch_size: must be at least 2", "32 x 32 pixels"]),
        (["model.backbone=vgg11", "data.image_size=16"], ["data.image_size: must be one that backbone 'vgg11' takes"]),
        (["model.prototypes_per_class=1000000000000"], ["too little memory"]),
        (["model.prototypes_per_class=99999999999999999999"], ["prototypes_per_class: must be a number of at most"]),
        (["data.image_size=99999999999999999999"], ["data.image_size: must be at most 65536"]),
        (["train.warm_epochs=1000000000000"], ["train.warm_epochs: must be at most 1000000"]),
        (["train.mixup=1e-300"], ["train.mixup: must be 0, or from 1e-30 to 1e+30"]),
        (["train.backbone_lr=nan"], ["train.backbone_lr: must be a finite number"]),
        (["train.patience=99999999999999999999"], ["train.patience: must be a number of at most"]),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else None,
)  # fmt: skip
def test_settings_that_a_library_refuses_are_named_before_the_run_is_there(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], words: list[str]
) -> None:
    flags = [part for change in ("model.weights=none", *changes) for part in ("--set", change)]
    told = mistake(capsys, "train", "--data", photos, "--out", tmp_path / "run", *FAST, *flags)
    for word in words:
        assert word in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["meta", "", "mps", "vulkan", "cuda:-1", "cpu cpu"])
def test_a_device_that_computes_nothing_here_is_named(device: str, tmp_path: Path, capsys) -> None:
    told = mistake(capsys, "evaluate", tmp_path, "--device", device)
    assert f"--device: must be a device of this machine; got {device!r}" in told


def test_batches_of_one_are_taken_where_batch_norms_see_more_than_one_patch(photos: Path, tmp_path: Path) -> None:
    flags = ["--set", "train.batch_size=1", "--set", "train.joint_epochs=1"]
    assert main.main(["train", "--data", str(photos), "--out", str(tmp_path / "run"), *FAST, *flags]) == 0


@pytest.mark.parametrize("verb", ["evaluate", "push", "report"])
def test_images_of_a_size_that_a_trained_net_does_not_take_are_named(verb: str, tmp_path: Path, capsys) -> None:
    made = make_run(tmp_path)
    told = mistake(capsys, verb, made.folder, "--set", "data.image_size=[0, 8]")
    assert "data.image_size: must be at least 1" in told
    first = made.model.backbone.get_submodule("body.0")
    assert isinstance(first, nn.Conv2d)
    first.padding = (0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protokern.runs.open.rebuild_model", lambda checkpoint: made.model)
        told = mistake(capsys, verb, made.folder, "--set", "data.image_size=2")
    assert "data.image_size: must be one that backbone 'tiny' takes; got 2 (" in told
