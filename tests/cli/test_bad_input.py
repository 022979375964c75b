"""Every mistake a user can make is one clear line on stderr and exit code 2, without a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from protokern.cli.main import main
from tests.cli.pushed_run import CLASSES, PushedRun, make_run, write_photos
from tests.train.tampering import change_tensors

FAST = [
    "--recipe", "paper",
    "--set", "model.backbone=tiny",
    "--set", "model.prototypes_per_class=2",
    "--set", "model.prototype_dim=8",
    "--set", "data.image_size=32",
    "--set", "data.val_fraction=0.34",
    "--set", "train.batch_size=4",
    "--set", "train.warm_epochs=1",
    "--set", "train.joint_epochs=1",
    "--set", "train.last_layer_epochs=1",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("pushed"))


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"protokern {arguments[0]}: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    return captured.err


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def truncate(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:200])


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def put_a_file(folder: Path) -> None:
    remove(folder)
    folder.write_bytes(b"file")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: write(root / "train" / "down" / "9.jpg", b""), ["9.jpg", "1 unreadable file", "skip"]),
        (lambda root: write(root / "train" / "down" / "9.jpg", b"no image"), ["9.jpg", "unreadable"]),
        (lambda root: truncate(root / "test" / "down" / "0.png"), ["test/down/0.png", "unreadable"]),
        (lambda root: [p.unlink() for p in (root / "train" / "down").iterdir()], ["train", "down", "image"]),
        (lambda root: remove(root / "train" / "down", root / "test" / "down"), ["at least two class folders"]),
        (lambda root: (root / "test" / "down").rename(root / "test" / "up"), ["test", "up", "down"]),
        (lambda root: remove(root / "test"), ["train/ and test/"]),
        (remove, ["does not exist"]),
        (put_a_file, ["must be a folder; got the file"]),
    ],
    ids=["empty", "no-image", "truncated", "empty-class", "one-class", "other-class", "no-test", "no-folder", "file"],
)  # fmt: skip
def test_bad_data_are_named_before_training_starts(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], words: list[str]
) -> None:
    spoil(photos)
    error = mistake(capsys, "train", "--data", photos, "--out", tmp_path / "run", *FAST)
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


def test_unreadable_files_can_be_skipped(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(photos / "train" / "down" / "9.jpg", b"no image")
    command = ["train", "--data", str(photos), "--out", str(tmp_path / "run"), *FAST]
    assert main([*command, "--set", "data.on_unreadable=skip"]) == 0
    assert "skipped 1 unreadable file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.epochs=3"], "train.epochs: no such key. Did you mean train.warm_epochs? Allowed here: seed, "),
        (["train.batch_size=many"], "train.batch_size: must be a whole number; got 'many'."),
        (["model.backbone=resnet19"], "model.backbone: must be one of resnet18, "),
        (["model.metric=l2"], "model.metric: must be 'sqeuclidean', 'cosine' or 'dot'; got 'l2'."),
        (["model.prototype_size=[9, 9]"], "model: prototype_size: must fit the feature grid (4, 4)"),
        (["model.weights=/nowhere.pt"], "/nowhere.pt"),
        (['train.frozen_layers=["x"]'], "train.frozen_layers: must name submodules of the backbone; got 'x'."),
        (["model.name=forest"], "model.name: must be one of protopnet, protopool, prototree, tesnet, pipnet; got "),
        (["model.num_prototypes=9"], "model.num_prototypes: no such key. It is a key of protopool and pipnet: set "),
        (["train.mixup=much"], "train.mixup: must be a number or 'auto'; got 'much'."),
        (["data.path=a b"], "--set data.path: 'a b' is not a TOML value"),
        (["seed"], "--set: must be section.key=value; got 'seed'."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_path(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    flags = [part for change in changes for part in ("--set", change)]
    assert message in mistake(capsys, "train", "--data", photos, "--out", tmp_path / "run", *FAST, *flags)
    assert not (tmp_path / "run").exists()


def test_a_missing_or_broken_config_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "run")
    assert "none.toml (No such file" in mistake(capsys, "train", "--config", tmp_path / "none.toml", *out)
    write(tmp_path / "bad.toml", b"[train\n")
    assert "bad.toml is not valid TOML" in mistake(capsys, "train", "--config", tmp_path / "bad.toml", *out)


def test_an_impossible_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cuda:99", "toaster"):
        error = mistake(capsys, "train", "--out", tmp_path / "run", "--device", device, *FAST)
        assert f"--device: must be a device of this machine; got '{device}'" in error


def test_a_run_is_not_overwritten(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in pushed.folder.rglob("*"))
    error = mistake(capsys, "train", "--data", pushed.data, "--out", pushed.folder, *FAST)
    assert "already holds a run. Go on with it by --resume, or choose another folder." in error
    assert sorted(path.name for path in pushed.folder.rglob("*")) == before


def test_out_may_not_be_a_file(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", b"")
    error = mistake(capsys, "train", "--data", photos, "--out", tmp_path / "run", *FAST)
    assert "--out: must be a folder; got the file" in error
    error = mistake(capsys, "train", "--data", photos, "--out", tmp_path / "run" / "inside", *FAST)
    assert "Not a directory" in error


@pytest.mark.parametrize("verb", ["evaluate", "push", "prune", "report"])
def test_a_path_without_a_run_is_named(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "it does not exist" in mistake(capsys, verb, tmp_path / "nothing")
    assert "must be a run folder with a checkpoint; it has none" in mistake(capsys, verb, tmp_path)


@pytest.mark.parametrize("verb", ["evaluate", "push", "prune", "report"])
def test_data_of_other_classes_are_refused(
    verb: str, pushed: PushedRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (photos / split / "down").rename(photos / split / "up")
    error = mistake(capsys, verb, pushed.folder, "--data", photos)
    assert "classes" in error
    assert "down" in error


@pytest.mark.parametrize("verb", ["evaluate", "push", "prune"])
def test_a_trained_net_cannot_be_reshaped(verb: str, pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    error = mistake(capsys, verb, pushed.folder, "--set", "model.prototype_dim=16")
    assert "--set model.prototype_dim: cannot be changed after training." in error


def test_a_broken_checkpoint_is_named(pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(pushed.folder, tmp_path / "run")
    truncate(tmp_path / "run" / "checkpoints" / "push-2" / "model.safetensors")
    assert "push-2/model.safetensors: is not whole" in mistake(capsys, "evaluate", tmp_path / "run")
    write(tmp_path / "run" / "checkpoints" / "latest.json", b"{")
    assert "latest.json: is not whole" in mistake(capsys, "evaluate", tmp_path / "run")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    changes = ["--set", "train.joint_epochs=3", "--set", "train.backbone_lr=1e30"]
    error = mistake(capsys, "train", "--data", photos, "--out", out, *FAST, *changes)
    assert "joint epoch 1" in error
    assert "not finite" in error
    assert "The last good checkpoint is" in error
    assert main(["evaluate", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["checkpoint"] == "warm-0"


def test_a_full_disk_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the third checkpoint is written; the second stays whole, and the run goes on from it."""
    from protokern.storage import files

    syncs, real = [], files.os.fsync

    def fsync(descriptor: int) -> None:
        syncs.append(descriptor)
        if (out / "checkpoints" / "warm-0").exists() and len(list((out / "checkpoints").glob(".joint*"))) == 1:
            raise OSError(28, "No space left on device")
        real(descriptor)

    out = tmp_path / "run"
    monkeypatch.setattr(files.os, "fsync", fsync)
    error = mistake(capsys, "train", "--data", photos, "--out", out, *FAST)
    assert "could not be written (No space left on device)" in error
    monkeypatch.undo()
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert "going on from" in capsys.readouterr().out


def test_images_that_give_nan_are_found_in_the_push(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pushed.folder, tmp_path / "run")
    weights_file = tmp_path / "run" / "checkpoints" / "push-2" / "model.safetensors"
    change_tensors(weights_file, lambda weights: weights["backbone.body.0.weight"].fill_(torch.nan))
    assert "must give finite distances; got NaN" in mistake(capsys, "push", tmp_path / "run")


def test_a_photo_in_an_unusual_mode_is_no_mistake(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("LA", (17, 90), (128, 200)).save(photos / "train" / CLASSES[1] / "odd.png")
    assert main(["train", "--data", str(photos), "--out", str(tmp_path / "run"), *FAST]) == 0
