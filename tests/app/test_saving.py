"""Saving the edited net: a new run beside the old one, under a name that is only a name."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protokern.app import saving
from protokern.cli.main import main
from protokern.runs.open import open_run
from tests.app.served import Served, serving
from tests.cli.pushed_run import PushedRun


@pytest.fixture(scope="module")
def served(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page with an edit, for all tests of names."""
    run = shutil.copytree(pushed.folder, tmp_path_factory.mktemp("saving") / "runs" / "run")
    with serving(run) as one:
        assert one.edit("forbid", prototype=1, reason="a sticker").status == 200
        yield one


NAMES = [
    "",
    ".",
    "..",
    "../outside",
    "/tmp/outside",
    "a/b",
    "a\\b/..",
    ".hidden",
    "-flag",
    " space",
    "a b",
    "a\n",
    "a\0",
    "é",
    "🦤",
    "run\u202e",
    "\ud800",
    "a" * 81,
    "CON:",
    "$(true)",
    "<b>",
    "~root",
]


def test_what_is_no_name_is_refused(served: Served) -> None:
    runs = served.room.run.folder.parent
    before = sorted(runs.parent.rglob("*"))
    for name in NAMES:
        reply = served.post("save", {"name": name})
        assert reply.status == 400, name
        assert reply.error.startswith("name: must be a folder's name of letters, digits, '.', '_' and '-', 80 at most")
    for table in ({}, {"name": None}, {"name": 3}, {"name": ["a"]}, {"name": {"a": 1}}):
        assert served.post("save", table).error.startswith("name: must be a text; got ")
    assert sorted(runs.parent.rglob("*")) == before


def test_a_folder_that_is_taken_stays_as_it_is(served: Served) -> None:
    runs = served.room.run.folder.parent
    (runs / "empty").mkdir()
    (runs / "file").write_text("mine")
    (runs / "link").symlink_to(runs / "nowhere")
    for name in ("run", "empty", "file", "link"):
        assert served.post("save", {"name": name}).error == (
            f"name: must be of a folder that does not exist yet; {name} is taken. Give another name."
        )
    assert (runs / "file").read_text() == "mine"
    assert not list((runs / "empty").iterdir())
    assert not (runs / "nowhere").exists()


def test_a_saved_run_is_a_run(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    name = "Saved_1.2-" + "a" * 70
    reply = served.post("save", {"name": name}).json
    folder = Path(reply["folder"])
    assert folder == served.room.run.folder.resolve().parent / name
    assert open_run(folder).model.num_prototypes == 5
    assert main(["evaluate", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert f"{100 * told['accuracy']:.1f}%" == reply["test"]
    assert reply["images"] == 8
    with serving(folder) as saved:  # and may be edited in turn, from its own numbers
        assert saved.get("state").json["state"]["history"] == []
        assert saved.edit("forbid", prototype=4).status == 200
        assert saved.edit("forbid", prototype=5).status == 400


def test_without_an_edit_that_counts_there_is_nothing_to_save(copy_run: Callable[[], Path]) -> None:
    run = copy_run()
    with serving(run) as served:
        assert served.post("save", {"name": "new"}).error == "There is nothing to save: no edit counts."
        served.edit("forbid", prototype=1)
        served.edit("undo", revision=1)
        assert served.post("save", {"name": "new"}).error == "There is nothing to save: no edit counts."
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_disk_that_takes_nothing_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_edited", full)
    assert "(No space left on device)" in served.post("save", {"name": "new"}).error
