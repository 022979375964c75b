"""What a run settles once - the range of grey files, channels, the split of a folder - holds for every verb."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.cli.main import main
from protokern.cli.training import notes_on_weights
from protokern.config import load_config
from protokern.data import load_image
from protokern.runs.data import open_data
from protokern.runs.open import open_run
from tests.train.tampering import change_table

SETTINGS = {
    "model.backbone": "tiny",
    "model.prototypes_per_class": "1",
    "model.prototype_dim": "4",
    "data.image_size": "32",
    "data.augmentation": "none",
    "train.batch_size": "8",
    "train.warm_epochs": "0",
    "train.joint_epochs": "1",
}


def sets(**changes: str) -> list[str]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return ["--recipe", "paper", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def write_scans(root: Path, count: int, *, top: int = 4000) -> None:
    """Two classes of 12-bit grey scans in files of 16 bits, without train/ and test/."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("across", "down")):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            wave = np.sin(np.arange(32) * rng.uniform(0.4, 1.2))
            pixels = (wave[:, None] if k == 0 else wave[None, :]) + rng.normal(0, 0.1, (32, 32))
            scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * top
            Image.fromarray(scaled.astype(np.uint16)).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one channel, whose data folder was split by itself: RUN beside `scans`."""
    root = tmp_path_factory.mktemp("scans")
    write_scans(root / "scans", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["train", "--data", str(root / "scans"), "--out", str(root / "run"), *sets(data__channels="1")]) == 0
    torch.set_num_threads(threads)
    return root


def logged(run: Path) -> list[str]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["text"] for record in records if record.get("kind") == "notice"]


def test_what_was_measured_is_written_down(scans: Path) -> None:
    data = tomllib.loads((scans / "run/run.toml").read_text())["data"]
    assert (data["grey_range"], data["channels"]) == ([0, 4095], 1)
    split = json.loads((scans / "run/split.json").read_text())
    assert {name: len(files) for name, files in split["files"].items()} == {"train": 10, "val": 2, "test": 4}
    notes = logged(scans / "run")
    assert notes[0] == "data: 16 files: 10 training, 2 validation, 4 test"
    assert any(note.startswith("16 images have more than 8 bits a channel: 0 to 4095 become") for note in notes)


def test_explain_and_the_data_sets_give_a_value_the_same_meaning(scans: Path, tmp_path: Path, capsys) -> None:
    """A darker photograph alone would be read by another range."""
    dark = tmp_path / "dark.png"
    with Image.open(scans / "scans/across/0.png") as image:
        Image.fromarray((np.asarray(image) // 8).astype(np.uint16)).save(dark)
    assert main(["explain", str(scans / "run"), str(dark), "--out", str(tmp_path / "out")]) == 0
    assert "1 image has more than 8 bits a channel: 0 to 4095 become black to white" in capsys.readouterr().out
    run = open_run(str(scans / "run"), data=None, changes=(), device=torch.device("cpu"))
    seen = load_image(dark, 32, channels=1, grey_range=(0, 4095))
    assert float(seen.max()) < 0.13
    expected = run.model(seen[None]).logits[0].tolist()
    said = json.loads((tmp_path / "out/dark.json").read_text())["logits"]
    assert list(said.values()) == pytest.approx(expected, rel=1e-5)
    test = open_data(run.config, run=run.folder).test
    assert torch.equal(test[0][0], load_image(test.source_path(0), 32, channels=1, grey_range=(0, 4095)))


@pytest.mark.parametrize(
    "verb",
    [
        ["evaluate"],
        ["push"],
        ["importance", "--modifications", "contrast", "--out", "{out}"],
        ["importance", "--images", "{image}", "--modifications", "hue", "--out", "{out}"],
        ["neighbours", "--out", "{out}"],
        ["prototypes", "--out", "{out}"],
        ["export", "--format", "hub", "--out", "{out}"],
        ["report"],
    ],
    ids=lambda verb: verb[0],
)
def test_every_verb_takes_one_channel_and_the_split_of_the_run(scans: Path, tmp_path: Path, verb: list[str]) -> None:
    image = scans / "scans/down/0.png"
    name, *flags = [part.format(out=tmp_path / "out", image=image) for part in verb]
    assert main([name, str(scans / "run"), *flags]) == 0


def test_new_files_move_none_of_the_old_ones(scans: Path, capsys) -> None:
    new = scans / "scans/across/new.png"
    with Image.open(scans / "scans/across/0.png") as image:
        image.rotate(90).save(new)
    try:
        assert main(["evaluate", str(scans / "run")]) == 0
        said = capsys.readouterr().out
        assert "1 new since the run was split (across/new.png)" in said
        assert '"images": 4' in said
        assert main(["train", "--out", str(scans / "run"), "--resume", *sets(data__channels="1")]) == 0
    finally:
        new.unlink()


def test_channels_stay_what_the_net_was_made_for(scans: Path, capsys) -> None:
    assert main(["evaluate", str(scans / "run"), "--set", "data.channels=3"]) == 2
    assert "data.channels: cannot be changed after training" in capsys.readouterr().err


def test_a_split_that_was_changed_is_refused(scans: Path, capsys) -> None:
    path = scans / "run/split.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"across/0.png", b"across/9.png"))
    try:
        assert main(["evaluate", str(scans / "run")]) == 2
        assert "split.json: is not as it was written" in capsys.readouterr().err
    finally:
        path.write_bytes(before)


def test_pages_of_a_file_are_channels_for_train_evaluate_and_explain(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for k, name in enumerate(("a", "b")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pages = [Image.fromarray(rng.integers(90 * k, 90 * k + 90, (16, 16), dtype=np.uint8)) for _ in range(5)]
                pages[0].save(folder / f"{i}.tif", save_all=True, append_images=pages[1:])
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["train", "--data", data, "--out", run, *sets(data__channels="5", data__val_fraction="0.3")]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["explain", run, f"{data}/test/a/0.tif", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["importance", run]) == 2
    assert (
        "data.channels: must be at most 4 to measure what colours and shapes matter; got 5" in capsys.readouterr().err
    )


def test_a_run_from_before_ranges_reads_grey_files_by_their_type(scans: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoint = run / "checkpoints/one"
    checkpoint.mkdir(parents=True)
    latest = open_run(str(scans / "run"), data=None, changes=(), device=torch.device("cpu")).checkpoint
    for path in latest.iterdir():
        (checkpoint / path.name).write_bytes(path.read_bytes())
    change_table(checkpoint / "state.json", lambda table: table["config"]["data"].pop("grey_range"))
    assert open_run(str(checkpoint), data=None, changes=(), device=torch.device("cpu")).config.data.grey_range == "type"
    text = (scans / "run/run.toml").read_text()
    (tmp_path / "run.toml").write_text(text.replace("grey_range = [0.0, 4095.0]\n", ""))
    assert "grey_range" not in (tmp_path / "run.toml").read_text()
    assert load_config(tmp_path / "run.toml").data.grey_range == "type"
    assert load_config(None).data.grey_range == "auto"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.grey_range=bits", 'data.grey_range: must be "auto", "type" or two numbers in [ ]; got \'bits\''),
        (
            "data.grey_range=[9, 3]",
            "data.grey_range: must be two finite numbers, the smaller one first; got [9.0, 3.0]",
        ),
        ("data.channels=0", "data.channels: must be a finite number of at least 1; got 0"),
        ("data.test_fraction=1.0", "data.test_fraction: must be between 0 and 1; got 1.0"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, capsys, change: str, message: str) -> None:
    assert main(["train", "--out", str(tmp_path / "run"), "--set", change]) == 2
    assert message in capsys.readouterr().err


def test_a_backbone_that_starts_from_nothing_says_so() -> None:
    config = load_config(None, ["model.backbone=resnet18", "data.channels=1"])
    assert notes_on_weights(config) == (
        "resnet18 starts with random weights, since those of ImageNet are for 3 channels, not 1",
    )
    assert notes_on_weights(load_config(None, ["model.backbone=resnet18"])) == ()
