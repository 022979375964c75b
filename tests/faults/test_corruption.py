"""Damaged run folders: refused by the name of the file, in one line, and nothing in them is changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protokern.cli.main import main
from tests.cli.pushed_run import PushedRun, make_run
from tests.train.tampering import change_table

from .conftest import WholeRun

CHECKPOINT = "pruned_last_layer-1"


@pytest.fixture
def copy(whole: WholeRun, tmp_path: Path) -> Path:
    return shutil.copytree(whole.folder, tmp_path / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("photos"))


def flip(path: Path, place: float) -> None:
    """Flip one bit; `place` is in [0, 1)."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def cut(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line of a command that must refuse, and leave the folder as it is."""
    before = files_of(folder)
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    after = files_of(folder)
    after[".lock"] = before[".lock"]  # says who was at work last
    assert after == before
    return error


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
@pytest.mark.parametrize(
    "name",
    ["checkpoints/latest.json", *(f"checkpoints/{CHECKPOINT}/{one}" for one in ("state.json", "model.safetensors"))],
)
def test_a_damaged_checkpoint_is_not_opened(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path, float], None], place: float
) -> None:
    damage(copy / name, place)
    assert name in refused(capsys, copy, "evaluate", copy)


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize(
    "name",
    ["checkpoints/latest.json", f"checkpoints/{CHECKPOINT}/state.json", f"checkpoints/{CHECKPOINT}/resume.safetensors"],
)
def test_a_run_does_not_go_on_from_a_damaged_checkpoint(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path, float], None]
) -> None:
    damage(copy / name, 0.5)
    assert name in refused(capsys, copy, "train", "--out", copy, "--resume")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("log.jsonl", b'"val_loss"', b'"val_lost"'),
        ("prototypes/prototypes.json", b'"grid"', b'"grie"'),
        ("prototypes/0000-image.png", b"IHDR", b"IHDS"),
    ],
)
def test_a_report_is_not_made_from_damaged_files(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, old: bytes, new: bytes
) -> None:
    content = (copy / name).read_bytes()
    assert old in content
    (copy / name).write_bytes(content.replace(old, new))
    assert name in refused(capsys, copy, "report", copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("warm_epochs = 1", "warm_epochs = 3", "run.toml: must say what pruned_last_layer-1 was trained with, train."),
        ("[train]", "[trai.]", "run.toml is not valid TOML"),
        ("[train]", "[tra)n]", "run.toml is not valid TOML"),
        ("batch_size = 8", "batch_size = -8", "train.batch_size: must be "),
        ('"protokern-run-1"', '"protokern-run-9"', "run.toml: is of format protokern-run-9; this version reads up to"),
    ],
    ids=["digit", "cut-name", "bracket", "sign", "newer"],
)  # fmt: skip
def test_a_run_does_not_go_on_with_a_damaged_configuration(
    copy: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    text = (copy / "run.toml").read_text()
    assert old in text
    (copy / "run.toml").write_text(text.replace(old, new))
    assert message in refused(capsys, copy, "train", "--out", copy, "--resume")


def test_a_checkpoint_in_the_progress_of_a_run_cannot_lead_out_of_it(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    shutil.copytree(copy / "checkpoints" / CHECKPOINT, precious)
    index = copy / "checkpoints" / "latest.json"
    change_table(index, lambda table: table.update(resume="prune-1", latest="prune-1"))
    state = copy / "checkpoints" / "prune-1" / "state.json"

    def lead_out(table: dict) -> None:
        table["progress"]["best_pushed"] |= {"checkpoint": "../../../precious", "epoch": 77}

    change_table(state, lead_out)
    assert main(["train", "--out", str(copy), "--resume"]) == 2
    assert "must name checkpoints by letters, digits, _ and -; got '../../../precious'" in capsys.readouterr().err


def test_a_table_that_is_too_large_is_not_read(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run.toml", "log.jsonl", "prototypes/prototypes.json", "checkpoints/latest.json"):
        with (copy / name).open("r+b") as file:
            file.truncate(10**12)  # a hole, which takes no space on the disk
    for name, verb in (("run.toml", ("train", "--resume", "--out")), ("latest.json", ("evaluate",))):
        assert main([*verb, str(copy)]) == 2
        assert name in capsys.readouterr().err


def test_pictures_of_another_size_are_not_decoded(photos: PushedRun) -> None:
    from PIL import Image

    from protokern.errors import CheckpointError
    from protokern.explain.prototypes import write_prototypes

    files = write_prototypes(photos.folder, photos.model, photos.splits, photos.push)
    Image.new("1", (3_000, 2_000)).save(files.folder / "0000-box.png")
    with pytest.raises(CheckpointError, match=r"0000-box\.png: must be a picture of the run; .*3000 x 2000 pixels"):
        files.picture(0, "box")
