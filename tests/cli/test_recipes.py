"""`protokern recipes`, what `train --recipe` begins with, and the folder of a run that was given none."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.cli.stop_signals import StopRequest
from protokern.cli.train import check_settings
from protokern.config import RunConfig, config_to_dict, differing_keys, load_config
from protokern.errors import ConfigError
from protokern.recipes import RECIPES, default_recipe, recipe_text
from tests.cli.pushed_run import write_photos

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model.backbone": "tiny",
    "model.weights": "none",
    "model.prototype_dim": "8",
    "data.image_size": "32",
    "data.birds_classes": "2",
    "data.birds_train": "6",
    "data.birds_val": "2",
    "data.birds_test": "2",
    "train.batch_size": "4",
    "train.live_epochs": "1",
}
SHORT = {"train.warm_epochs": "0", "train.joint_epochs": "1", "train.last_layer_path": "1"}
SETS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
SHORT_SETS = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
PLAIN = ["train", "--recipe", "paper", *SETS, *SHORT_SETS, "--set", "model.prototypes_per_class=1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_says_in_a_line_what_it_is_for(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["recipes", name]) == 0
    text = capsys.readouterr().out
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "recipe.toml") == load_config(None, recipe=name)
    assert main(["recipes"]) == 0
    purpose = text.partition("\n")[0].removeprefix("# ")
    assert any(line.split(maxsplit=1) == [name, purpose] for line in capsys.readouterr().out.splitlines())


def test_quick_is_the_example_for_photographs() -> None:
    assert load_config(None, recipe="quick") == load_config(ROOT / "examples/configs/photographs.toml")


def test_fine_is_the_example_for_fine_tuning() -> None:
    assert load_config(None, recipe="fine") == load_config(ROOT / "examples/configs/fine_tuned.toml")


def test_paper_is_the_defaults() -> None:
    assert differing_keys(load_config(None, recipe="paper"), RunConfig()) == []


def test_a_file_comes_over_the_recipe_and_changes_over_both(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[train]\nseed = 5\nlive_epochs = 7\n[prune]\nk = 9\n")
    config = load_config(path, ["train.seed=6"], "quick")
    assert (config.train.seed, config.train.live_epochs, config.prune.k) == (6, 7, 9)
    changed = differing_keys(config, load_config(None, recipe="quick"))
    assert changed == ["train.seed", "train.live_epochs", "prune.k"]


def test_a_table_that_is_none_is_a_mistake_over_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("train = 3\n")
    with pytest.raises(ConfigError, match=r"^train: must be a table of keys; got 3\.$"):
        load_config(path, recipe="quick")


def test_a_recipe_for_another_model_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "train", "--recipe", "quick", "--set", "model.name=protopool")
    assert error == (
        "protokern train: --recipe: must be for the model that is trained; got quick, which is for protopnet, "
        "with model.name = 'protopool'. Leave out one of them.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["recipes", "fast"], "recipes: NAME"), (["train", "--recipe", "fast", "--out", "x"], "train: --recipe")],
)
def test_an_unknown_recipe_is_a_line_that_lists_those_there_are(
    arguments: list[str], what: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *arguments) == (
        f"protokern {what}: must be one of quick, fine, paper; got 'fast'. "
        "'protokern recipes' says what each of them is for.\n"
    )
    assert list(here.iterdir()) == []


def test_recipes_are_shown_without_importing_torch() -> None:
    script = "import sys; from protokern.cli.main import main; main(['recipes', 'fine']); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == recipe_text("fine") + "False\n"


def test_settings_are_shown_without_importing_torch() -> None:
    script = "import sys; from protokern.cli.main import main; main(['settings']); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "protopool" in printed
    assert printed.endswith("False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.sed=3"], "train.sed: no such key. Did you mean train.seed?"),
        (["--set", "model.prototypes=3"], "model.prototypes: no such key."),
        (
            ["--set", "model.name=protopnett"],
            "model.name: must be one of protopnet, protopool, prototree, tesnet, pipnet; got 'protopnett'.",
        ),
        (["--set", "train.live_epochs=3.5", "--recipe", "quick"], "train.live_epochs: must be a whole number; got 3.5"),
        (["--config", "none.toml"], "config: must be a readable TOML file; got none.toml"),
        (["--recipe", "fast"], "--recipe: must be one of quick, fine, paper; got 'fast'."),
        (["--data", "nowhere"], "nowhere, which does not exist. Check the path."),
        (["--data", "photos"], "data: must hold train/ and test/"),
    ],
)
def test_a_mistake_is_told_without_importing_torch(here: Path, arguments: list[str], message: str) -> None:
    (here / "photos").mkdir()
    script = "import sys; from protokern.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "train", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_value_that_only_the_recipe_of_a_gpu_takes_is_left_to_the_training() -> None:
    with pytest.raises(ConfigError, match="joint_epochs"):
        load_config(None, ["train.live_epochs=0"], "quick")
    check_settings(changes=["train.live_epochs=0"])
    with pytest.raises(ConfigError, match="live_epochs"):
        check_settings(changes=["train.live_epochs=-1"])


def test_a_run_by_a_recipe_writes_it_out_and_goes_on_by_the_same_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--recipe", "quick", *SETS, "--out", "run"]
    assert main(command) == 0
    table = tomllib.loads(Path("run/run.toml").read_text(encoding="utf-8"))
    assert (table["train"]["backbone"], table["model"]["prototypes_per_class"]) == ("frozen", 3)
    assert load_config("run/run.toml").model == load_config(None, [f"{k}={v}" for k, v in TINY.items()], "quick").model
    assert "run folder:" not in capsys.readouterr().out
    assert main([*command, "--resume"]) == 0
    capsys.readouterr()
    other = refused(capsys, "train", "--recipe", "paper", *SETS, "--out", "run", "--resume")
    assert "must stay" in other


def test_sizes_follow_the_data_and_a_resumed_run_keeps_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [part for key, value in TINY.items() if key != "train.batch_size" for part in ("--set", f"{key}={value}")]
    command = ["train", "--recipe", "quick", *sets, "--out", "run"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "sizes for 12 training images of 2 classes: 3 prototypes a class, 1 epoch, 8 images a step, 0.05 of the "
        "training images held out if there is no val/; --set changes any of these"
    )
    assert load_config("run/run.toml").train.batch_size == 8
    assert load_config(None, recipe="quick").train.batch_size == 64
    assert main([*command, "--resume"]) == 0
    capsys.readouterr()
    error = refused(capsys, *command, "--resume", "--set", "train.batch_size=64")
    assert "train.batch_size: must stay 8, as in run/run.toml, to resume; got 64." in error


def test_a_file_and_changes_come_over_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[train]\nbatch_size = 5\n")
    sizes = {"train": {"batch_size": 8, "live_epochs": 25}, "model": {"prototypes_per_class": 1}}
    config = load_config(path, ["model.prototypes_per_class=2"], "quick", sizes)
    assert (config.train.batch_size, config.train.live_epochs) == (5, 25)
    assert config_to_dict(config)["model"]["prototypes_per_class"] == 2


def test_a_training_without_settings_begins_with_a_recipe_and_says_which(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SETS, "--device", "cpu", "--out", "run"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        "recipe: quick, because this runs on a CPU; to choose another: --recipe fine or --recipe paper, see "
        "'protokern recipes'"
    )
    quick = load_config(None, [f"{key}={value}" for key, value in TINY.items()], "quick")
    assert differing_keys(load_config("run/run.toml"), quick) == []
    assert main(["train", "--out", "run", "--resume"]) == 0
    assert "recipe" not in capsys.readouterr().out


def test_the_recipe_depends_on_whether_there_is_a_gpu() -> None:
    assert (default_recipe(has_gpu=False), default_recipe(has_gpu=True)) == ("quick", "fine")


def test_settings_of_another_model_begin_with_the_defaults(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = ["model.name=protopool", "model.num_prototypes=4", "model.slots_per_class=2", "train.hardening_epochs=1"]
    sets = [*SETS, *SHORT_SETS, *(part for change in pool for part in ("--set", change))]
    assert main(["train", *sets, "--out", "run"]) == 0
    assert capsys.readouterr().out.startswith("recipe: none, because those that there are are for another model; ")
    changes = [f"{key}={value}" for key, value in {**TINY, **SHORT}.items()]
    assert load_config("run/run.toml") == load_config(None, [*changes, *pool])


def test_a_file_of_settings_begins_with_no_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.toml").write_text("[model]\nprototypes_per_class = 1\n")
    assert main(["train", "--config", "own.toml", *SETS, *SHORT_SETS, "--out", "run"]) == 0
    assert "recipe" not in capsys.readouterr().out
    assert load_config("run/run.toml").train.backbone == "train"


def test_runs_without_a_name_are_numbered_by_their_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLAIN) == 0
    assert capsys.readouterr().out.startswith("run folder: runs/birds-1\n")
    (here / "runs" / "birds-2").touch()
    assert main(PLAIN) == 0
    assert capsys.readouterr().out.startswith("run folder: runs/birds-3\n")
    assert (here / "runs" / "birds-3" / "report" / "index.html").exists()
    assert load_config("runs/birds-3/run.toml") == load_config("runs/birds-1/run.toml")


def test_a_mistake_leaves_no_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, *PLAIN, "--data", "nowhere")
    assert list(here.iterdir()) == []
    (here / "runs").mkdir()
    refused(capsys, *PLAIN, "--data", "nowhere")
    assert [path.name for path in here.rglob("*")] == ["runs"]


def test_nothing_is_made_among_the_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(here)
    error = refused(capsys, *PLAIN, "--data", ".")
    assert f"--out: must be outside of the data folder {here}; got runs/{here.name}-1. Give another folder." in error
    assert not (here / "runs").exists()


def test_a_run_to_go_on_with_must_be_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *PLAIN, "--resume")
    assert error == (
        "protokern train: --out: must name the run that --resume goes on with; got none. Give --out RUN.\n"
    )
    assert list(here.iterdir()) == []


def test_a_stopped_run_without_a_name_says_how_it_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(here / "my photos.v2")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "is_made", lambda _: True)
        assert main([*PLAIN, "--data", "my photos.v2/"]) == 130
    advice = capsys.readouterr().err.rpartition("; go on with ")[2]
    assert advice == "--out 'runs/my photos.v2-1' --resume.\n"
    assert main(["train", *shlex.split(advice.removesuffix(".\n"))]) == 0
    assert (here / "runs" / "my photos.v2-1" / "report" / "index.html").exists()
