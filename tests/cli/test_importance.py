"""`protokern importance`: what it writes, prints and refuses."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from protokern.cli.main import main
from protokern.data.decode import read_photo
from protokern.errors import CheckpointError
from protokern.explain import importance, local_importance
from protokern.explain.modifications import MODIFICATIONS, choose_modifications
from protokern.push import PushResult
from protokern.results.importance import ImportanceBatch
from protokern.runs.importance import open_local_table, read_importance
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, SIZE, PushedRun, make_pool_run, make_run

TWO = ["--modifications", "hue", "shape"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("importance"))


@pytest.fixture(scope="module")
def measured(pushed: PushedRun) -> Path:
    assert main(["importance", str(pushed.folder)]) == 0
    return pushed.folder / "importance"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_tables_json_and_figures_of_train_and_test(pushed: PushedRun, measured: Path) -> None:
    names = [LISTING, "importance.json", "importance.png", "importance.svg", "test.csv", "train.csv"]
    assert sorted(path.name for path in measured.iterdir()) == names
    for split, dataset in (("train", pushed.splits.push), ("test", pushed.splits.test)):
        found = importance(pushed.model, [dataset.display_image(i) for i in range(len(dataset))])
        rows = rows_of(measured / f"{split}.csv")
        assert list(rows[0]) == ["prototype", "modification", "score", "low", "high"]
        assert [(row["prototype"], row["modification"]) for row in rows] == [
            (str(j), name) for j in range(6) for name in MODIFICATIONS
        ]
        for kind in ("score", "low", "high"):
            values = np.array([float(row[kind]) for row in rows]).reshape(6, -1).T
            np.testing.assert_allclose(values, getattr(found, kind), rtol=1e-3, atol=1e-4)  # batches of another size
    table = json.loads((measured / "importance.json").read_text())
    assert table["checkpoint"] == "push-2"
    assert table["train"]["images"] == 8
    assert table["test"]["images"] == 8
    assert set(table["comparison"]) == set(MODIFICATIONS)
    assert table["comparison"]["hue"]["train"]["mean"] == pytest.approx(
        np.mean(table["train"]["scores"]["hue"]["score"]), abs=1e-5
    )
    assert (measured / "importance.svg").read_text().count("<svg") == 1


def test_what_was_written_is_read_as_reasons_of_the_same_push(pushed: PushedRun, measured: Path) -> None:
    assert read_importance(pushed.folder / "checkpoints") is None
    stored = read_importance(pushed.folder)
    assert stored is not None
    assert pushed.push is not None
    assert stored.comes_from(pushed.push)
    other = PushResult(**{**vars(pushed.push), "patch": torch.roll(pushed.push.patch + 1, 1)})
    assert not stored.comes_from(other)
    reasons = stored.reasons(4)
    assert [reason.modification for reason in reasons] == list(MODIFICATIONS)
    rows = [row for row in rows_of(measured / "train.csv") if row["prototype"] == "4"]
    test_rows = [row for row in rows_of(measured / "test.csv") if row["prototype"] == "4"]
    for reason, row, test_row in zip(reasons, rows, test_rows, strict=True):
        assert reason.score == pytest.approx(float(row["score"]), rel=1e-4, abs=1e-6)
        assert reason.low == pytest.approx(float(row["low"]), rel=1e-4, abs=1e-6)
        assert reason.high == pytest.approx(float(row["high"]), rel=1e-4, abs=1e-6)
        assert reason.test_score == pytest.approx(float(test_row["score"]), rel=1e-4, abs=1e-6)


def test_files_of_another_version_and_broken_ones_are_named(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "importance")
    path = tmp_path / "importance" / "importance.json"
    path.write_text('{"format": "other-importance-1"}')
    with pytest.raises(CheckpointError, match=r"must be of format .* Run 'protokern importance RUN --data DIR'"):
        read_importance(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is not whole"):
        read_importance(tmp_path)
    whole = json.loads((measured / "importance.json").read_text())
    for broken in (
        {"format": whole["format"]},
        whole | {"push": {"image": [0], "patch": [0]}},
        whole | {"train": whole["train"] | {"similarity": ["much"]}},
        whole | {"modifications": 3},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=r"it is broken \(.*\)\. Run 'protokern importance RUN'"):
            read_importance(tmp_path)


def test_a_table_and_a_sentence_are_printed(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["importance", str(pushed.folder), "--out", str(tmp_path / "out"), *TWO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "similarity lost by changing a property; 6 prototypes, 8 training and 8 test images" in lines
    assert any(line.startswith(("Most", "On average none of the changes")) for line in lines)
    assert any("Welch's test" in line for line in lines)
    assert f"  {tmp_path / 'out' / 'importance.json'}" in lines
    assert {row["modification"] for row in rows_of(tmp_path / "out" / "test.csv")} == {"hue", "shape"}


def test_every_single_score_is_written_only_when_asked_for(pushed: PushedRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["importance", str(pushed.folder), "--out", str(out), *TWO]
    assert main([*command, "--local"]) == 0
    rows = rows_of(out / "test-local.csv")
    assert list(rows[0]) == ["image", "prototype", "modification", "delta", "similarity"]
    assert len(rows) == 8 * 2 * 6
    dataset = pushed.splits.test
    local = local_importance(pushed.model, dataset.display_image(5), choose_modifications(["hue", "shape"]))
    of_image = [row for row in rows if row["image"] == dataset.sample_name(5)]
    delta = np.array([float(row["delta"]) for row in of_image]).reshape(2, 6)
    np.testing.assert_allclose(delta, local.delta, rtol=1e-3, atol=1e-4)
    assert float(of_image[7]["similarity"]) == pytest.approx(local.similarity[1], rel=1e-3)
    assert main(command) == 0
    assert not list(out.glob("*local*"))


def test_single_images_are_measured_without_the_data(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = pushed.data / "test" / CLASSES[0] / "1.png"
    shutil.copytree(pushed.folder / "checkpoints", tmp_path / "run" / "checkpoints")
    assert main(["importance", str(tmp_path / "run"), "--data", "/nowhere", "--images", str(photo), *TWO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1.png: ")
    assert lines[1].split() == ["prototype", "similarity", "hue", "shape"]
    rows = rows_of(tmp_path / "run" / "importance" / "images.csv")
    assert len(rows) == 2 * 6
    assert {row["image"] for row in rows} == {str(photo)}
    local = local_importance(pushed.model, read_photo(photo, (SIZE, SIZE)), choose_modifications(["hue", "shape"]))
    shown = int(lines[2].split()[0])
    assert float(rows[6 + shown]["delta"]) == pytest.approx(local.delta[1, shown], rel=1e-3, abs=1e-4)
    assert lines[2].split()[3] == f"{local.delta[1, shown]:.3f}"


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_pool_is_measured_too(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    assert main(["importance", str(pool.folder), *TWO]) == 0
    stored = read_importance(pool.folder)
    assert stored is not None
    assert stored.train.score.shape == (2, 6)


def test_single_images_have_no_table_of_a_split(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--local: must be without --images" in mistake(
        capsys, "importance", pushed.folder, "--images", "a.png", "--local"
    )


def test_a_name_that_is_no_text_does_not_stop_a_table(tmp_path: Path) -> None:
    one = np.zeros((1, 1, 1))
    batch = ImportanceBatch(
        first=0,
        names=("hue",),
        delta=one,
        similarity=one[0],
        distance=one[0],
        modified_distance=one,
        patch=one[0],
    )
    with open_local_table(tmp_path / "local.csv") as table:
        table.add(batch, ["bird\udce9.png"])
    assert rows_of(tmp_path / "local.csv")[0]["image"] == "bird?.png"


def test_a_run_without_a_push_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, is_pushed=False)
    error = mistake(capsys, "importance", run.folder)
    assert "joint-2: must be from after a push; its prototypes are not yet patches of images" in error


def test_an_unknown_modification_is_named(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    error = mistake(capsys, "importance", pushed.folder, "--modifications", "colour")
    assert "invalid choice: 'colour'" in error
    assert "hue" in error


def test_a_missing_package_is_named_before_anything_is_measured(
    pushed: PushedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    error = mistake(capsys, "importance", pushed.folder)
    assert error.startswith("protokern importance: opencv-python-headless: must be installed for ")
    assert "pip install 'protokern[explain]'" in error


def test_an_image_that_cannot_be_read_is_named(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"text")
    error = mistake(capsys, "importance", pushed.folder, "--images", tmp_path / "bad.jpg", "--out", tmp_path / "out")
    assert "bad.jpg" in error
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_refused(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    error = mistake(capsys, "importance", pushed.folder, "--out", tmp_path / "out", *TWO)
    assert "--out: must be a folder; got the file" in error
