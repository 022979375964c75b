"""Edits of a page: what `protokern edit` makes of the same history, and nothing is lost between pages and programs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from protokern.cli.main import main
from protokern.edits.history import read_history
from protokern.edits.records import Forbid, Redo, Undo
from protokern.runs.open import open_run
from tests.app.served import Served, serving
from tests.cli.pushed_run import CLASSES, PushedRun

IMAGE = f"train/{CLASSES[1]}/2.png"
EDITS = (
    {"kind": "forbid", "prototype": 1, "reason": "a sticker\n\x1b[31m<b> 🦤 \ud800"},
    {"kind": "replace", "prototype": 4, "image": IMAGE, "patch": [1, 2]},
    {"kind": "add", "classes": list(CLASSES), "image": IMAGE, "patch": [3, 0]},
    {"kind": "assign", "prototype": 0, "classes": [CLASSES[1]]},
    {"kind": "forbid", "prototype": 6},
    {"kind": "keep", "prototype": 6},
    {"kind": "limit", "classes": [CLASSES[0]], "own": "for", "others": "against"},
)


def history(served: Served) -> Path:
    return served.room.run.folder / "edits.jsonl"


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def act(served: Served, edit: dict, revision: int = -1, place: int = 0) -> dict:
    reply = served.post("edits", {"edit": edit, "revision": revision}, place)
    assert reply.status == 200, reply.body
    table: dict = reply.json
    return table


def test_a_saved_net_is_that_of_the_command(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = served.room.run.folder
    before = files_of(run)
    for count, edit in enumerate(EDITS, start=1):
        assert act(served, edit)["state"]["revision"] == count
    act(served, {"kind": "forbid", "prototype": 2})
    act(served, {"kind": "undo"}, revision=8)
    saved = served.post("save", {"name": "saved"})
    assert saved.status == 200
    assert saved.json["folder"] == str(run.parent / "saved")
    assert main(["edit", str(run), "--apply", str(history(served)), "--out", str(tmp_path / "other")]) == 0
    told = capsys.readouterr().out
    assert f"test: {saved.json['test']} of {saved.json['images']} images" in told
    one, other = (open_run(folder) for folder in (run.parent / "saved", tmp_path / "other"))
    weights, others = one.model.state_dict(), other.model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert one.push is not None
    assert other.push is not None
    assert torch.equal(one.push.image, other.push.image)
    assert torch.equal(one.push.patch, other.push.patch)
    assert (run.parent / "saved/edits-applied.jsonl").read_bytes() == history(served).read_bytes()
    served.get("explain?image=test/0&frame=sufficient")
    after = files_of(run)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {run / "edits.jsonl", run / ".lock"}
    assert sorted(path.name for path in run.parent.iterdir()) == ["run", "saved"]

    numbers = {row[0]: row[1:] for row in served.get("state").json["state"]["numbers"]}
    assert numbers["prototypes"] == ["6", "6"]  # one was added, one is forbidden
    net = served.room.editor.net
    assert numbers["right answers to validation images"][1] == f"{100 * net.val_after.accuracy:.1f}%"


def test_a_page_shows_what_an_edit_did(served: Served) -> None:
    table = act(served, EDITS[0])
    state = table["state"]
    assert state["history"] == [["Prototype 1 was forbidden: a sticker\n\x1b[31m<b> 🦤 ?", True]]
    assert [row[0] for row in state["forbidden"]] == [1]
    assert (state["can_undo"], state["can_redo"], state["busy"]) == (True, False, "")
    assert len(table["page"]["sheets"]) == 6
    assert served.get("state?revision=1").json.keys() == {"state"}
    assert served.get("near?prototype=1").error == "prototype: must be one that the net uses; got 1."
    page = served.get().body.decode()
    assert "\\u003cb\\u003e 🦤" in page
    assert "<b> 🦤" not in page


def test_the_answers_are_those_of_the_edited_net(served: Served, pushed: PushedRun) -> None:
    for edit in EDITS:
        act(served, edit)
    assert served.post("save", {"name": "saved"}).status == 200
    with serving(served.room.run.folder.parent / "saved") as other:
        for image in ("test/0", "test/6"):
            one, two = (page.get(f"explain?image={image}").json["item"]["totals"] for page in (served, other))
            assert one == two
        for split in ("train", "val", "test"):
            one, two = (page.get(f"images?split={split}").json for page in (served, other))
            assert (one["right"], one["total"]) == (two["right"], two["total"])
            assert [row[3:] for row in one["rows"]] == [row[3:] for row in two["rows"]]
        assert served.get("near?prototype=7").status == 400
        # A prototype that is now patch [3, 0] of an image is nearest to the same patches as in the saved run.
        one, two = (page.get(f"near?prototype={number}").json for page, number in ((served, 6), (other, 5)))
        assert one["places"] == two["places"]


def test_undo_and_redo(served: Served) -> None:
    act(served, EDITS[0])
    act(served, EDITS[1])
    assert act(served, {"kind": "undo"}, 2)["state"]["can_redo"]
    assert act(served, {"kind": "undo"}, 3)["state"]["can_undo"] is False
    refused = served.edit("undo", revision=4)
    assert (refused.status, refused.error) == (400, "There is nothing to undo.")
    assert act(served, {"kind": "redo"}, 4)["state"]["history"][0][1] is True
    assert act(served, EDITS[3])["state"]["can_redo"] is False
    assert (served.edit("redo", revision=6).error) == "There is nothing to redo."
    assert [type(one) for one in read_history(history(served))][2:5] == [Undo, Undo, Redo]


def test_what_was_not_seen_is_not_undone(served: Served) -> None:
    act(served, EDITS[0])
    act(served, EDITS[1])
    for revision in (1, 3, -1, 2**31):
        refused = served.edit("undo", revision=revision)
        assert refused.status == 409
        assert "nothing was undone" in refused.error
    for no_revision in (2.0, "2", None, True, [2]):
        assert served.post("edits", {"edit": {"kind": "undo"}, "revision": no_revision}).status == 409
    assert len(read_history(history(served))) == 2


WRONG = [
    ({"kind": "forbid", "prototype": 6}, "edit 1, 'forbid': prototype must be a number of the net; got 6."),
    ({"kind": "keep", "prototype": 999}, "prototype must be a number of the net; got 999."),
    ({"kind": "assign", "prototype": 0, "classes": ["no"]}, "classes must be classes of the net; got 'no'. It has 2."),
    ({"kind": "assign", "prototype": 0, "classes": []}, "different names of classes, at least one"),
    ({"kind": "assign", "prototype": 0, "classes": [CLASSES[0]] * 2}, "different names of classes, at least one"),
    ({"kind": "assign", "prototype": 0, "classes": CLASSES[0]}, "different names of classes, at least one"),
    (
        {"kind": "add", "classes": [CLASSES[0]], "image": "train/no.png", "patch": [0, 0]},
        "must be the name of a training",
    ),
    (
        {"kind": "add", "classes": [CLASSES[0]], "image": f"test/{CLASSES[0]}/0.png", "patch": [0, 0]},
        "image must be the name of a training image",
    ),
    ({"kind": "replace", "prototype": 0, "image": IMAGE, "patch": [4, 0]}, "must be in the grid of 4 x 4 patches"),
    ({"kind": "replace", "prototype": 0, "image": IMAGE, "patch": [-1, 0]}, "must have [row, column], counted from 0"),
    ({"kind": "replace", "prototype": 0, "image": IMAGE, "patch": [0]}, "must have [row, column], counted from 0"),
    ({"kind": "replace", "prototype": 0, "image": 7, "patch": [0, 0]}, "must have a text as 'image'"),
    ({"kind": "replace", "prototype": 0, "image": IMAGE}, "must have 'patch' in 'replace'"),
    ({"kind": "forbid", "prototype": -1}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": 1.0}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": True}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": float("nan")}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": 10**300}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": "0"}, "must have a number from 0 as 'prototype'"),
    ({"kind": "forbid", "prototype": 0, "reason": 3}, "must have a text as 'reason'"),
    ({"kind": "forbid", "prototype": 0, "reason": "a" * 2001}, "reason: must have at most 2000 letters; got 2001."),
    ({"kind": "forbid", "prototype": 0, "why": ""}, "must have no 'why' in 'forbid'"),
    ({"kind": "forget", "prototype": 0}, "edit: must be one of forbid, keep, replace, add, assign,"),
    ({"kind": "format", "format": "protokern-edits-1"}, "edit: must be one of forbid"),
    ({"kind": ["forbid"]}, "edit: must be one of forbid"),
    ({"kind": "x" * 60_000}, "edit: must be one of forbid"),
    ({}, "edit: must be one of forbid"),
    ([], "edit: must be one of forbid"),
    (None, "edit: must be one of forbid"),
    ("forbid", "edit: must be one of forbid"),
    ({"kind": "undo"}, "There is nothing to undo."),
    ({"kind": "redo"}, "There is nothing to redo."),
    ({"kind": "undo", "prototype": 0}, "must have no 'prototype' in 'undo'"),
]


def test_edits_that_do_not_fit_are_refused_in_a_sentence_and_not_written(served: Served) -> None:
    for edit, message in WRONG:
        reply = served.post("edits", {"edit": edit, "revision": 0})
        assert reply.status == 400, edit
        assert message in reply.error, edit
        assert len(reply.error) <= 600
    assert not history(served).exists()
    assert served.get("state").json["state"]["revision"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"edit"',
        b"\xff\xfe\x00",
        b"\xed\xa0\x80",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 5000,
    ],
)
def test_what_is_no_object_is_refused(read_only: Served, body: bytes) -> None:
    for path in ("edits", "window", "save"):
        reply = read_only.post(path, body)
        assert reply.status == 400
        assert reply.error.startswith("A request must be a JSON object")


def test_the_last_prototype_stays(served: Served) -> None:
    for number in range(5):
        table = act(served, {"kind": "forbid", "prototype": number})
    assert table["state"]["empty"] == [CLASSES[0]]
    assert "must leave a prototype" in served.edit("forbid", prototype=5).error
    assert len(read_history(history(served))) == 5
    assert served.get("explain?image=test/0").status == 200


def test_two_clients_at_once_lose_nothing(served: Served) -> None:
    def client(number: int) -> list[int]:
        found = []
        for count in range(4):
            reply = served.edit("forbid" if count % 2 == 0 else "keep", prototype=number)
            assert reply.status == 200
            found.append(reply.json["state"]["revision"])
        return found

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(client, (0, 4))
    assert sorted([*one, *two]) == list(range(1, 9))
    entries = read_history(history(served))
    for number in (0, 4):
        own = [entry for entry in entries if entry.prototype == number]
        assert [type(entry) is Forbid for entry in own] == [True, False] * 2
