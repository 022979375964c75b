"""The history of a run whose page is open: other pages, other programs and broken files lose nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from protokern.app import editor
from protokern.storage.files import CHECKSUM, seal
from tests.app.served import Served, serving
from tests.app.test_edits import EDITS, act, history
from tests.cli.pushed_run import CLASSES, PushedRun


def test_two_servers_in_turn_see_each_other(copy_run: Callable[[], Path]) -> None:
    run = copy_run()
    with serving(run) as one, serving(run) as two:
        act(one, EDITS[0])
        assert act(two, EDITS[1])["state"]["history"][0][1] is True
        assert one.get("state").json["state"]["revision"] == 2
        act(two, EDITS[2])
        assert [row[0] for row in two.get("state").json["state"]["numbers"]][2] == "prototypes"
        state = act(one, {"kind": "undo"}, 3)  # it has not asked since, but says that it knows
        assert [counts for _, counts in state["state"]["history"]] == [True, True, False]


def test_after_a_stale_undo_the_page_sees_the_newest_edits(copy_run: Callable[[], Path]) -> None:
    run = copy_run()
    with serving(run) as one, serving(run) as two:
        act(one, EDITS[0])
        act(two, EDITS[1])
        assert one.edit("undo", revision=1).status == 409
        state = one.get("state").json["state"]
        assert state["revision"] == 2
        assert one.edit("undo", revision=2).status == 200


def test_after_a_wrong_edit_the_page_sees_those_of_others(copy_run: Callable[[], Path]) -> None:
    run = copy_run()
    with serving(run) as one, serving(run) as two:
        act(two, EDITS[0])
        assert one.edit("forbid", prototype=77).status == 400
        assert one.get("state").json["state"]["revision"] == 1
        assert one.get("near?prototype=1").status == 400


HOLDER = """
import sys
from pathlib import Path
from protokern.storage.lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(run: Path) -> Iterator[Callable[[], None]]:
    """Another process has the lock of the run until the block ends, or until what is given is called."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.stdin.close
        holder.stdin.close()


def test_a_run_that_a_training_writes_is_only_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "PATIENCE", 0.1)
    with held_by_another(served.room.run.folder):
        assert served.get("state").json["state"]["busy"] == editor.BUSY
        refused = served.edit("forbid", prototype=2)
        assert (refused.status, refused.error) == (400, editor.BUSY)
        for path in ("", "images", "near?prototype=0", "explain?image=test/0&frame=sufficient"):
            assert served.get(path).status == 200
    assert served.get("state").json["state"]["busy"] == ""
    assert served.edit("forbid", prototype=2).status == 200


def test_the_page_of_another_program_is_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "PATIENCE", 30.0)
    with held_by_another(served.room.run.folder) as release, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(served.edit, "forbid", prototype=2)
        assert not wait([reply], timeout=0.2).done
        release()
        assert reply.result().status == 200


def test_a_lock_that_is_a_link_is_no_fault(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "PATIENCE", 0.1)
    lock = served.room.run.folder / ".lock"
    lock.unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_text("")
    lock.symlink_to(tmp_path / "elsewhere")
    assert served.get("state").status == 200
    refused = served.edit("forbid", prototype=2)
    assert refused.status == 400
    assert ".lock: could not be written" in refused.error
    assert (tmp_path / "elsewhere").read_text() == ""


BROKEN = {
    "no JSON": b'{"kind": "format", "format": "protokern-edits-1"}\n{"kind"\n',
    "no edits": b"hello\n",
    "newer": b'{"kind": "format", "format": "protokern-edits-99"}\n',
    "bytes": b"\xff\xfe\x00\n\n",
    "unknown kind": b'{"kind": "format", "format": "protokern-edits-1"}\n{"kind": "burn"}\n',
    "does not fit": b'{"kind": "format", "format": "protokern-edits-1"}\n{"kind": "forbid", "prototype": 77}\n',
    "image is gone": b'{"kind": "format", "format": "protokern-edits-1"}\n'
    b'{"kind": "replace", "prototype": 0, "image": "train/gone.png", "patch": [0, 0]}\n',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_history_that_cannot_be_read_is_told_and_kept(copy_run: Callable[[], Path], kind: str) -> None:
    run = copy_run()
    (run / "edits.jsonl").write_bytes(BROKEN[kind])
    with serving(run) as served:
        state = served.get("state").json["state"]
        assert state["refusal"].startswith("The edits of this run cannot be taken up: ")
        assert "history" not in state
        for path in ("", "images", "near?prototype=0", "explain?image=test/0"):
            assert served.get(path).status == 200
        for reply in (served.edit("forbid", prototype=0), served.post("save", {"name": "x"})):
            assert (reply.status, reply.error) == (400, state["refusal"])
    assert (run / "edits.jsonl").read_bytes() == BROKEN[kind]
    assert not (run.parent / "x").exists()


def test_a_history_that_breaks_while_it_is_open_stops_edits_until_it_is_mended(served: Served) -> None:
    act(served, EDITS[0])
    whole = history(served).read_bytes()
    history(served).write_bytes(whole + b"{\n")
    assert "Mend the line" in served.get("state").error
    assert "Mend the line" in served.edit("forbid", prototype=2).error
    assert served.get().status == 200
    assert history(served).read_bytes() == whole + b"{\n"
    history(served).write_bytes(whole)
    assert act(served, {"kind": "forbid", "prototype": 2})["state"]["revision"] == 2


def test_a_line_changed_by_hand_is_seen(served: Served) -> None:
    act(served, {"kind": "forbid", "prototype": 1})
    text = history(served).read_text()
    history(served).write_text(text.replace('"prototype": 1', '"prototype": 2'))  # as long as before
    assert served.get("state").json["state"]["forbidden"] == [[2, ""]]


def test_half_a_line_of_a_killed_process_is_dropped(served: Served) -> None:
    act(served, EDITS[0])
    with history(served).open("ab") as file:
        file.write(b'{"kind": "forb')
    assert served.get("state").json["state"]["revision"] == 1
    assert act(served, EDITS[1])["state"]["revision"] == 2
    assert [json.loads(line)["kind"] for line in history(served).read_bytes().splitlines()] == [
        "format",
        "forbid",
        "replace",
    ]


def test_a_removed_history_is_no_history(served: Served) -> None:
    act(served, EDITS[0])
    history(served).unlink()
    assert served.get("state").json["state"]["revision"] == 0
    assert act(served, EDITS[1])["state"]["revision"] == 1


def test_a_run_without_its_images_is_only_asked(
    copy_run: Callable[[], Path], pushed: PushedRun, tmp_path: Path
) -> None:
    data = shutil.copytree(pushed.data, tmp_path / "photos")
    run = copy_run()
    for path in (run / "run.toml", *run.glob("checkpoints/*/state.json")):
        path.write_text(path.read_text().replace(str(pushed.data), str(data)))
    shutil.rmtree(data)
    reseal(run)
    with serving(run) as served:
        state = served.get("state").json["state"]
        assert state["refusal"].startswith("The images of the run are not there")
        assert served.get().status == 200
        content = (pushed.data / "test" / CLASSES[0] / "0.png").read_bytes()
        assert served.post("ask?name=a.png", content).json["item"]["first"]["reasons"]
        for question in ("images", "near?prototype=0", "explain?image=test/0", "images?split=x"):
            assert served.get(question).status == 400
            assert served.get(question).error
        for reply in (served.edit("forbid", prototype=0), served.post("save", {"name": "x"})):
            assert (reply.status, reply.error) == (400, state["refusal"])
    with serving(run, data=str(pushed.data)) as served:
        assert served.edit("forbid", prototype=0).status == 200


def reseal(run: Path) -> None:
    """Give a checkpoint whose state was changed its new checksum."""
    for path in run.glob("checkpoints/*/state.json"):
        table = json.loads(path.read_text())
        table.pop(CHECKSUM, None)
        path.write_text(json.dumps(seal(table)))


def test_before_the_images_are_read_a_page_says_so(copy_run: Callable[[], Path], pushed: PushedRun) -> None:
    with serving(copy_run(), prepare=False) as served:
        wanted = "The images of the run are being read."
        assert served.get("state").json["state"]["doing"] == wanted
        assert served.get().status == 200
        assert served.get("explain?image=test/0").status == 200
        for reply in (
            served.get("images"),
            served.get("near?prototype=0"),
            served.post("window", {"image": "test/0", "window": [0, 0, 1, 1]}),
            served.edit("forbid", prototype=0),
            served.post("save", {"name": "x"}),
        ):
            assert (reply.status, reply.error) == (400, wanted)
        served.room.prepare()
        assert served.edit("forbid", prototype=0).status == 200
