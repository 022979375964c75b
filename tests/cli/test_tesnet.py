"""A TesNet from the training to its page, by the commands that every model has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protokern.cli.main import main
from tests.cli.small_run import train_small
from tests.report.test_page import read_page

SETTINGS = {
    "model.name": "tesnet",
    "model.prototypes_per_class": 2,
    "model.prototype_dim": 8,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("tesnet") / "run", SETTINGS)


def test_the_page_shows_projections_and_no_distances(run: Path) -> None:
    page = read_page((run / "report/index.html").read_text(encoding="utf-8"))
    near = [row for sheet in page["sheets"] for _, rows in sheet["near"] for row in rows]
    assert near
    assert all(float(row[4]) > 0 for row in near)
    assert {row[5] for row in near} == {""}
    assert not any("moved" in sheet for sheet in page["sheets"])
    assert "It is a projection" in str(page["how"]["reading"])


def test_the_distances_of_an_explanation_are_negative_projections(run: Path, tmp_path: Path) -> None:
    picture = next((run / "prototypes").rglob("*.png"))
    assert main(["explain", str(run), str(picture), "--out", str(tmp_path)]) == 0
    (table,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    evidence = [row for one in table["classes"] for row in one["prototypes"]]
    assert evidence
    assert all(row["distance"] == pytest.approx(-row["similarity"]) for row in evidence)


def test_measures_of_shares_take_projections(run: Path, tmp_path: Path) -> None:
    names = ["perturbation", "left_alone", "size"]
    assert main(["metrics", str(run), "--only", *names, "--images", "4", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/measures.json").read_text())["measures"]
    assert all("left_out" not in found[name] or found[name]["left_out"] is None for name in names)


def test_other_verbs_work_on_a_tesnet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run)]) == 0
    assert main(["prune", str(run), "--keep", "0", "3", "4"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prototypes"] == 3
