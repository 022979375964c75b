from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.explain.collect import collect_report
from protokern.runs.open import open_run
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import PushedRun, make_pool_run, make_run
from tests.explain.test_collect import measure
from tests.report.test_page import read_page


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("report"))


def test_the_verb_writes_the_page_and_says_where(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pushed.folder)]) == 0
    page = pushed.folder / "report" / "index.html"
    *warnings, last = capsys.readouterr().out.splitlines()
    assert last == str(page)
    assert all(line.startswith("warning: ") for line in warnings)
    html = page.read_text(encoding="utf-8")
    assert len(read_page(html)["sheets"]) == 6
    assert "\\u003cb\\u003eacross" in html
    assert "<b>across" not in html
    assert (pushed.folder / "prototypes" / "prototypes.json").exists()


@pytest.mark.parametrize("verb", ["push", "prune"])
@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_after_a_push_or_pruning_the_choices_are_final(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    soft = make_pool_run(tmp_path, is_pushed=False)
    assert main([verb, str(soft.folder)]) == 0
    assert "the choices are final" in capsys.readouterr().out
    assert main(["report", str(soft.folder)]) == 0
    html = (soft.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "The pool" in html
    assert "still choose" not in html


def test_data_that_moved_are_left_out_and_data_that_are_named_must_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    assert main(["report", str(run.folder)]) == 0
    run.data.rename(tmp_path / "elsewhere")
    assert main(["report", str(run.folder)]) == 0
    html = (run.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Made without test images" in html
    assert len(read_page(html)["sheets"]) == 6
    assert read_page(html)["pictures"]
    capsys.readouterr()
    assert main(["report", str(run.folder), "--data", str(run.data)]) == 2
    assert "which does not exist" in capsys.readouterr().err
    assert main(["report", str(run.folder), "--data", str(tmp_path / "elsewhere")]) == 0


def test_other_classes_are_refused(pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(pushed.data, tmp_path / "photos")
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "down").rename(tmp_path / "photos" / split / "up")
    assert main(["report", str(pushed.folder), "--data", str(tmp_path / "photos")]) == 2
    assert "must have the 2 classes that the model was trained on" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_pictures_go_beside_the_page_when_asked(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pushed.folder, folder)
    assert main(["report", str(folder), "--pictures", "beside", "--neighbours", "1"]) == 0
    assert len(list((folder / "report" / "pictures").glob("*.jpg"))) > 6
    assert main(["report", str(folder)]) == 0
    assert sorted(path.name for path in (folder / "report").iterdir()) == [LISTING, "index.html"]
    for wrong in ("-1", "few"):
        assert main(["report", str(folder), "--neighbours", wrong]) == 2
        assert f"must be a whole number from 0 on; got '{wrong}'" in capsys.readouterr().err
    monkeypatch.setattr("protokern.report.page.LARGEST_PAGE", 1000)
    assert main(["report", str(folder), "--pictures", "inside"]) == 2
    assert "pictures: must be 'auto' or 'beside'" in capsys.readouterr().err


def test_a_pruned_run_leaves_older_scores_out_and_keeps_neighbours_right(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run)
    assert main(["prune", str(run.folder), "--set", "prune.k=2", "--set", "prune.threshold=2"]) == 0
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    assert 0 < opened.model.num_prototypes < 6
    data = collect_report(opened, run.splits, num_neighbours=1)
    assert opened.push is not None
    assert any("before the last push or pruning" in note for note in data.notes)
    for card in data.prototypes:
        assert not card.reasons
        assert card.neighbours is not None
        own = run.splits.push.sample_name(int(opened.push.image[card.index]))
        assert card.source_name == own
        assert card.neighbours.train[0].name != own
