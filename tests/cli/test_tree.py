"""A ProtoTree from the training to its page, by the commands that every model has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protokern.cli.main import main
from tests.cli.small_run import changes_of, train_small
from tests.report.test_page import read_page

SETTINGS = {
    "model.name": "prototree",
    "model.depth": 3,
    "model.prototype_dim": 8,
    "model.leaf_threshold": 0.4,
    "train.live_epochs": 1,
    "train.prototype_lr": 0.1,
    "prune.enabled": "true",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("tree") / "run", SETTINGS)


def test_the_page_has_the_decisions_and_the_whole_tree(run: Path) -> None:
    page = read_page((run / "report/index.html").read_text(encoding="utf-8"))
    assert ["tree", "Tree"] in page["nav"]
    branches = [node for node in page["tree"]["nodes"] if "prototype" in node]
    assert sorted(node["prototype"] for node in branches) == list(range(len(page["sheets"])))
    assert all(node["view"] is not None for node in branches)
    for item in page["explanations"]["items"]:
        assert item["first"]["ledger"][-1][0] == ["share of this leaf in the whole tree"]
        assert item["others"] == []


def test_measures_of_points_are_left_out_and_say_why(run: Path, tmp_path: Path) -> None:
    names = ["concentration", "size", "duplicates", "accuracy"]
    assert main(["metrics", str(run), "--only", *names, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/measures.json").read_text())["measures"]
    assert "decides along a path" in json.dumps(found["concentration"])
    assert "prototypes with a weight" not in json.dumps(found["size"])


def test_other_verbs_work_on_a_tree(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--out", str(tmp_path / "scores")]) == 0
    assert main(["prune", str(run)]) == 0
    assert main(["push", str(run)]) == 0
    assert main(["prune", str(run), "--keep", "0"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_tree_with_more_leaves_than_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", "--out", str(folder), *changes_of(SETTINGS | {"model.depth": 5})]) == 2
    assert capsys.readouterr().err.strip().splitlines() == [
        "protokern train: model.depth: must be at most 4 for 24 training images, so that each of its 2 ** depth leaves "
        "can have one; got 5. Set 4."
    ]
    assert not folder.exists()
