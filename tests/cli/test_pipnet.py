"""A PIP-Net from the training to its page and its strangers, by the commands that every model has."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.cli.main import main
from protokern.storage.files import CHECKSUM, seal
from tests.cli.small_run import changes_of, train_small
from tests.report.test_page import read_page

SETTINGS = {
    "model.name": "pipnet",
    "model.num_prototypes": 12,
    "model.pretrain_epochs": 1,
    "model.sheet_epochs": 1,
    "prune.enabled": "true",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("pipnet") / "run", SETTINGS)


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    folder = tmp_path / "strangers" / "of any kind"
    folder.mkdir(parents=True)
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder.parent


def evaluated(run: Path, out: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[str], dict]:
    assert main(["evaluate", str(run), "--out", str(out), *flags]) == 0
    printed = capsys.readouterr().out.splitlines()
    table: dict = json.loads((out / "evaluation.json").read_text())
    assert json.loads(printed[-1]) == {key: table[key] for key in json.loads(printed[-1])}
    return printed, table


def test_strangers_are_counted_by_thresholds_from_validation(
    run: Path, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, table = evaluated(run, tmp_path / "out", capsys, "--strangers", str(strangers))
    found = table["strangers"]
    assert found["images"] == 5
    assert 0 <= found["abstained"] <= 1 - found["false_positive_rate"] <= 1
    assert list(found["thresholds"]) == [row["class"] for row in table["classes"]]
    assert all(value >= 0 for value in found["thresholds"].values())
    assert any(
        re.match(r"5 strangers in .* none of these \(.* without any score\), .* taken for a class", line)
        for line in printed
    )
    assert 0 <= table["abstained"] <= 1
    assert any(line.startswith("none of these: ") for line in printed)


def test_how_many_images_keep_their_answers_can_be_chosen(
    run: Path, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--strangers", str(strangers), "--split", "val")
    kept = [
        evaluated(run, tmp_path / "out", capsys, *flags, "--keep", share)[1]["strangers"] for share in ("0.5", "0.9")
    ]
    assert [one["keep"] for one in kept] == [0.5, 0.9]
    assert 0.5 <= kept[0]["believed"] <= kept[1]["believed"]
    assert kept[0]["thresholds"] != kept[1]["thresholds"]
    assert all(kept[0]["thresholds"][name] >= low for name, low in kept[1]["thresholds"].items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--keep", "0.9"), "--keep: must come with --strangers DIR"),
        (("--keep", "1.0", "--strangers", "x"), "--keep: must be between 0 and 1; got 1.0"),
        (("--keep", "nan", "--strangers", "x"), "--keep: must be between 0 and 1; got nan"),
    ],
)
def test_a_share_that_cannot_be_kept_is_refused(
    run: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_folder_without_images_is_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", str(run), "--strangers", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "--strangers: must be a folder with images in it" in said
    assert len(said.strip().splitlines()) == 1


def test_the_page_and_the_measures_are_made(run: Path, tmp_path: Path) -> None:
    page = read_page((run / "report/index.html").read_text(encoding="utf-8"))
    assert all("view" in sheet for sheet in page["sheets"])
    assert main(["metrics", str(run), "--only", "duplicates", "size", "accuracy", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/measures.json").read_text())["measures"]
    assert "no channel is another" in json.dumps(found["duplicates"])
    assert "sparsity of ProtoPNeXt" not in json.dumps(found["size"])


def test_a_push_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run)]) == 2
    assert "RUN: must be of a model whose prototypes are vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.backbone=frozen", 'train.backbone: must be "train" for a PIPNet'),
        ("train.accumulation=2", "train.accumulation: must be 1 for a PIPNet"),
        ("train.batch_size=1", "train.batch_size: must be at least 2 for a PIPNet"),
    ],
)
def test_what_two_views_do_not_go_with_is_refused(
    tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = changes_of(SETTINGS)
    assert main(["train", "--out", str(tmp_path / "run"), *changes, "--set", change]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_page_has_the_sheet_and_the_points_of_each_answer(run: Path) -> None:
    page = read_page((run / "report/index.html").read_text(encoding="utf-8"))
    assert ["scoring", "Scoring sheet"] in page["nav"]
    rows = page["scoring"]["rows"]
    assert len(rows) == 3
    for _, entries in rows:
        weights = [float(weight) for _, _, weight in entries]
        assert weights == sorted(weights, reverse=True)
        assert min(weights, default=1) >= 0
        assert {index for index, *_ in entries} <= {sheet["index"] for sheet in page["sheets"]}
    assert not any("moved" in sheet for sheet in page["sheets"])
    assert any("most present" in sheet["alt"] for sheet in page["sheets"])
    for item in page["explanations"]["items"]:
        assert item["total_head"] == "points"
        ledger = [float(value.replace("\N{MINUS SIGN}", "-")) for _, value in item["first"]["ledger"]]
        total = float(item["first"]["total"][1].removesuffix(" points").replace("\N{MINUS SIGN}", "-"))
        assert sum(ledger) == pytest.approx(total, abs=0.02)


def explained(run: Path, out: Path, image: Path) -> dict:
    assert main(["explain", str(run), str(image), "--out", str(out), "--frame", "grid"]) == 0
    (table,) = (json.loads(path.read_text()) for path in out.glob("*.json") if "predicted" in path.read_text())
    return dict(table)


def test_points_add_up_to_the_score(run: Path, strangers: Path, tmp_path: Path) -> None:
    table = explained(run, tmp_path / "out", strangers / "of any kind/0.png")
    for one in table["classes"]:
        points = sum(evidence["points"] for evidence in one["prototypes"]) + one["other_points"]
        assert points == pytest.approx(one["score"], abs=1e-5)
        assert one["logit"] == pytest.approx(np.log(1 + one["score"] ** 2), abs=1e-5)
        assert all(evidence["points"] >= 0 for evidence in one["prototypes"])


def test_where_nothing_is_present_it_says_so(
    run: Path, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "run.toml"
    config.write_text(re.sub(r"smallest_presence = .*", "smallest_presence = 0.9999", config.read_text()))
    for state in (tmp_path / "run").rglob("state.json"):
        table = json.loads(state.read_text())
        table["config"]["model"]["smallest_presence"] = 0.9999
        state.write_text(json.dumps(seal({key: value for key, value in table.items() if key != CHECKSUM})))
    found = explained(tmp_path / "run", tmp_path / "out", strangers / "of any kind/0.png")
    assert found["predicted"] == "none of these"
    assert found["abstains"]
    assert found["faint"]["smallest"] == 0.9999
    said = capsys.readouterr().out
    assert "none of these. There is nothing here that any class is scored by. Most present, but below 0.9999" in said
    page = read_page(next((tmp_path / "out").glob("*.html")).read_text(encoding="utf-8"))
    assert page["item"]["answer"] == "none of these"
    assert page["item"]["first"]["reasons"] == []
