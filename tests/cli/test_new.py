"""`protokern new`: the settings for a folder as a file, which trains as the folder alone would."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.config import differing_keys, load_config
from protokern.config.run import with_data
from protokern.recipes import RECIPES
from protokern.recipes.sizes import sizes_for
from tests.cli.pushed_run import write_photos


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photographs: six of each of two classes to learn from."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "my photos")
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_file_has_what_the_recipe_would_use(recipe: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my photos/", "--recipe", recipe]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote my photos.toml: the recipe {recipe} for 12 training images of 2 classes",
        "train with it: protokern train --config 'my photos.toml'",
    ]
    sizes = sizes_for(12, 2) if recipe == "quick" else None
    used = with_data(load_config(None, recipe=recipe, sizes=sizes), "my photos")
    assert differing_keys(load_config("my photos.toml"), used) == []
    text = Path("my photos.toml").read_text()
    assert text.startswith(f"# The recipe {recipe} for 12 training images of 2 classes. ")
    assert "#   protokern train --config 'my photos.toml'\n" in text
    assert f'path = "{here}/my photos"\n' in text
    if recipe == "quick":
        assert "batch_size = 8                   # follows the data\n" in text
        assert 'metric = "cosine"\n' in text


def test_a_file_is_replaced_only_if_that_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("mine")
    assert main(["new", "my photos", "--out", "mine.toml"]) == 2
    assert capsys.readouterr().err == (
        "protokern new: --out: must be a new file; got mine.toml, which exists. Give another name, or --replace.\n"
    )
    assert Path("mine.toml").read_text() == "mine"
    assert main(["new", "my photos", "--out", "mine.toml", "--replace"]) == 0
    assert load_config("mine.toml").data.path == f"{here}/my photos"


def test_nothing_is_written_among_the_data_or_for_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    for arguments, message in (
        (["my photos", "--out", "my photos/x.toml"], "--out: must be outside of the data folder"),
        (["nowhere"], "nowhere, which does not exist"),
        (["my photos", "--recipe", "fast"], "--recipe: must be one of quick, fine, paper"),
    ):
        assert main(["new", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_training_begins_with_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my photos", "--recipe", "quick", "--out", "own.toml"]) == 0
    small = ["model.backbone=tiny", "model.weights=none", "model.prototype_dim=8", "data.image_size=32"]
    sets = [part for change in [*small, "train.live_epochs=1"] for part in ("--set", change)]
    assert main(["train", "--config", "own.toml", *sets]) == 0
    assert capsys.readouterr().out.startswith(
        "wrote own.toml: the recipe quick for 12 training images of 2 classes\n"
        "train with it: protokern train --config own.toml\nrun folder: runs/my photos-1\n"
    )
