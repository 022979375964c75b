"""A training that got nowhere is in nobody's way: the same command begins anew, and loses nothing by it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.cli.main import main
from protokern.config import RunConfig, parse_config
from protokern.errors import TrainingError
from protokern.runs.checkpoints import find_checkpoint, read_checkpoint
from protokern.runs.folder import unnamed_folder
from protokern.runs.log import read_log

SETTINGS = ["model.backbone=tiny", "model.weights=none", "model.prototype_dim=8", "data.image_size=16"]
SETTINGS += ["data.birds_train=2", "data.birds_val=1", "data.birds_test=1", "data.birds_classes=2"]


def train(folder: Path, *changes: str) -> int:
    words = [word for change in (*SETTINGS, *changes) for word in ("--set", change)]
    return main(["train", "--recipe", "paper", "--out", str(folder), *words])


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training comes further than its first epoch."""

    def fail(*_: object, **__: object) -> None:
        raise TrainingError("the first epoch failed.")

    monkeypatch.setattr("protokern.train.loop.train_epoch", fail)


@pytest.fixture
def begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert train(tmp_path / "run") == 2
    assert "the first epoch failed" in capsys.readouterr().err
    return tmp_path / "run"


# What a kill may leave behind, moment by moment: what is taken away from a folder with a first checkpoint.
MOMENTS = {
    "lock": ["run.toml", "log.jsonl", "checkpoints"],
    "settings": ["log.jsonl", "checkpoints"],
    "log": ["checkpoints"],
    "half a checkpoint": ["checkpoints/latest.json", "checkpoints/init-0/state.json"],
    "no index": ["checkpoints/latest.json"],
    "first checkpoint": [],
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", ["train.seed=0", "train.seed=5"], ids=["same", "other"])
def test_a_start_that_failed_or_was_killed_is_made_again(
    begun: Path, capsys: pytest.CaptureFixture[str], moment: str, change: str
) -> None:
    for name in MOMENTS[moment]:
        path = begun / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (begun / ".run.toml.999999999.tmp").write_text("half")
    assert train(begun, change) == 2
    captured = capsys.readouterr()
    assert "the first epoch failed" in captured.err
    assert ("starting over in" in captured.out) == (moment != "lock")
    checkpoint = find_checkpoint(begun)
    assert checkpoint.name == "init-0"
    assert [path.name for path in sorted(checkpoint.parent.iterdir())] == ["init-0", "latest.json"]
    assert read_checkpoint(checkpoint).state.config["train"]["seed"] == int(change[-1])
    (about_data,) = (one for one in read_log(begun / "log.jsonl") if one["text"].startswith("synthetic birds: "))
    assert about_data["kind"] == "notice"
    assert not list(begun.glob(".*.tmp"))


def test_settings_that_somebody_changed_are_kept(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (begun / "run.toml").read_text(encoding="utf-8") + "# my notes\n"
    (begun / "run.toml").write_text(text, encoding="utf-8")
    assert train(begun) == 2
    assert "already holds a run. Go on with it by --resume" in capsys.readouterr().err
    assert main(["train", "--out", str(begun), "--resume"]) == 2
    assert (begun / "run.toml").read_text(encoding="utf-8") == text
    shutil.rmtree(begun / "checkpoints")
    assert main(["train", "--out", str(begun), "--resume"]) == 2
    assert "the first epoch failed" in capsys.readouterr().err
    assert (begun / "run.toml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["joint-3", "init-0-copy", "notes.txt"])
def test_a_run_with_anything_else_among_its_checkpoints_is_not_begun_anew(
    begun: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(begun / "checkpoints" / "init-0", begun / "checkpoints" / name)
    (begun / "checkpoints" / "latest.json").unlink()
    assert train(begun) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_first_checkpoint_with_a_file_of_somebody_is_not_removed(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun / "checkpoints" / "init-0" / "notes.txt").write_text("mine")
    assert train(begun) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (begun / "checkpoints" / "init-0" / "notes.txt").read_text() == "mine"


def test_a_configuration_of_the_user_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "run.toml"
    mine.write_text("[train]\nseed = 3\n")
    assert main(["train", "--config", str(mine), "--out", str(tmp_path)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert mine.read_text() == "[train]\nseed = 3\n"


def class_folders(root: Path, count: int) -> str:
    """Two classes without train/ and test/; `--data` for them."""
    for name in ("gull", "owl"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([count, number, len(name)]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return f"data.path={root}"


def files_of_split(run: Path) -> int:
    return sum(len(names) for names in json.loads((run / "split.json").read_text())["files"].values())


@pytest.mark.parametrize("left", [["split.json"], ["split.json", "run.toml"], ["run.toml"]])
def test_a_split_by_itself_is_drawn_anew_where_the_training_got_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], left: list[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, class_folders(tmp_path / "few", 6)) == 2
    assert files_of_split(run) == 12
    for path in run.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train(run, class_folders(tmp_path / "many", 8)) == 2
    assert "the first epoch failed" in capsys.readouterr().err
    assert files_of_split(run) == 16
    assert train(run) == 2  # painted birds, which are not split
    assert "the first epoch failed" in capsys.readouterr().err
    assert not (run / "split.json").exists()


@pytest.mark.parametrize("with_run", [False, True])
def test_a_split_that_somebody_wrote_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str], with_run: bool) -> None:
    run = tmp_path / "run"
    data = class_folders(tmp_path / "data", 6)
    if with_run:
        assert train(run, data) == 2
    run.mkdir(exist_ok=True)
    (run / "split.json").write_text('{"mine": 1}')
    capsys.readouterr()
    assert train(run, data) == 2
    assert "which has split.json. Choose another folder." in capsys.readouterr().err
    assert (run / "split.json").read_text() == '{"mine": 1}'


LONG = "x" * 255


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("", "birds"),
        ("synthetic-birds", "birds"),
        ("photos", "photos"),
        ("../my photos.v2/", "my photos.v2"),
        ("photos/raw/..", "photos"),
        (".hidden", "hidden"),
        ("鳥", "鳥"),
        ("photos/...", "data"),
        ("webdataset:shards/birds/", "birds"),
        ("huggingface:somebody/pets", "pets"),
        (LONG, "x" * 244 + "-" + hashlib.sha256(LONG.encode()).hexdigest()[:8]),
    ],
)
def test_a_run_without_a_name_has_that_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with unnamed_folder(parse_config({"data": {"path": data}})) as folder:
        assert folder == Path("runs") / f"{name}-1"
        assert folder.is_dir()
        assert len(folder.name.encode()) <= 255
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_have_two_folders_and_the_number_of_an_empty_one_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with unnamed_folder(RunConfig()) as one, unnamed_folder(RunConfig()) as other:
        assert (one.name, other.name) == ("birds-1", "birds-2")
        (other / "log.jsonl").touch()
    assert [path.name for path in Path("runs").iterdir()] == ["birds-2"]
    with unnamed_folder(RunConfig()) as one, unnamed_folder(RunConfig()) as other:
        assert (one.name, other.name) == ("birds-1", "birds-3")


def test_a_folder_that_another_process_makes_at_the_same_moment_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "birds-1").mkdir(parents=True)
    monkeypatch.setattr("os.path.lexists", lambda path: False)  # as it was when it was looked at
    with unnamed_folder(RunConfig()) as folder:
        assert folder.name == "birds-2"
    assert (tmp_path / "runs" / "birds-1").exists()
