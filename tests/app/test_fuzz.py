"""Anything that a client may send: an answer in JSON or text, never a fault, and a history that stays readable."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protokern.edits.history import read_history
from tests.app.served import TOKEN, Reply, Served, serving
from tests.cli.pushed_run import CLASSES, PushedRun

ENDPOINTS = ("", "state", "images", "near", "explain", "ask", "window", "edits", "save", "pictures/x.jpg", "nothing")
KEYS = ("revision", "split", "class", "verdict", "order", "start", "prototype", "image", "frame", "name", "x")
IMAGE = f"train/{CLASSES[0]}/1.png"
PLAUSIBLE = (
    "forbid", "keep", "replace", "add", "assign", "undo", "redo", IMAGE, *CLASSES, "test/0", "train/11", "val", "all",
    "wrong", "sure", "sufficient", 0, 1, 2, 3, -1, 2**31, 1e400, None, True, "0", "7", "99999999999", "", [0, 0], [1],
    [0, 0, 1, 1], [list(CLASSES)], {"kind": "undo"},
)  # fmt: skip
WORDS = st.one_of(st.sampled_from([str(one) for one in PLAUSIBLE]), st.text(max_size=20))
VALUES = st.recursive(
    st.one_of(st.sampled_from(PLAUSIBLE), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)
EDITS = st.fixed_dictionaries(
    {"kind": st.sampled_from(("forbid", "keep", "replace", "add", "assign", "undo", "redo"))},
    optional={
        "prototype": st.one_of(st.integers(-1, 9), VALUES),
        "classes": st.one_of(st.lists(st.sampled_from(CLASSES), max_size=2), VALUES),
        "image": st.one_of(st.just(IMAGE), VALUES),
        "patch": st.one_of(st.lists(st.integers(-1, 4), min_size=2, max_size=2), VALUES),
        "reason": st.one_of(st.text(max_size=20), VALUES),
    },
)
BODIES = st.one_of(
    st.binary(max_size=200),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(("edit", "revision", "image", "window", "name")), VALUES).map(
        lambda table: json.dumps(table).encode()
    ),
    EDITS.map(lambda edit: json.dumps({"edit": edit, "revision": 1}).encode()),
)
MANY = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Faults(logging.Handler):
    """Collects what the program or its server logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture(scope="module")
def faults() -> Iterator[list[str]]:
    handler = Faults()
    names = ("", "uvicorn.error")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler.found
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture(scope="module")
def served(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = shutil.copytree(pushed.folder, tmp_path_factory.mktemp("fuzz") / "runs" / "run")
    with serving(run) as one:
        yield one


def check(reply: Reply, faults: list[str]) -> None:
    assert faults == []
    assert reply.status in (200, 307, 400, 403, 404, 405, 409, 413, 421), reply.body
    assert b"Traceback" not in reply.body
    kind = reply.headers.get("content-type", "text/plain")
    assert kind.split(";")[0] in ("application/json", "text/plain", "text/html", "image/jpeg")
    if kind == "application/json":
        assert reply.error if reply.status != 200 else isinstance(reply.json, dict)


@given(path=st.text(max_size=30), query=st.text(max_size=30), method=st.sampled_from(("GET", "HEAD", "POST", "PUT")))
@settings(MANY, max_examples=60)
def test_any_path(served: Served, faults: list[str], path: str, query: str, method: str) -> None:
    for start in (f"/{TOKEN}/0/", "/"):
        check(served.send(method, f"{start}{_quoted(path)}?{_quoted(query)}"), faults)


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="/?&=%;:@.")


@given(
    path=st.sampled_from(ENDPOINTS),
    query=st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=5),
    is_post=st.booleans(),
)
@MANY
def test_any_question(served: Served, faults: list[str], path: str, query: dict[str, str], is_post: bool) -> None:
    encoded = urlencode(query, errors="surrogatepass")
    reply = served.send("POST" if is_post else "GET", f"/{TOKEN}/0/{path}?{encoded}", b"" if is_post else None)
    check(reply, faults)


@given(path=st.sampled_from(("ask", "window", "edits", "save")), body=BODIES)
@MANY
def test_any_content(served: Served, faults: list[str], path: str, body: bytes) -> None:
    run = served.room.run.folder
    revision = served.room.current.revision
    reply = served.post(path, body)
    check(reply, faults)
    entries = read_history(run / "edits.jsonl")
    is_edited = path == "edits" and reply.status == 200
    assert len(entries) == revision + is_edited == served.get("state").json["state"]["revision"]
    assert {one.name for one in run.parent.parent.iterdir()} == {"runs"}


@given(content=st.binary(max_size=300))
@settings(MANY, max_examples=50)
def test_any_bytes(served: Served, faults: list[str], content: bytes) -> None:
    answer = served.raw(content, ends=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    del faults[:]  # the server may say that it got no request


def test_the_run_opens_again_after_all_of_it(served: Served) -> None:
    with serving(served.room.run.folder) as again:
        state = again.get("state").json["state"]
        assert state["refusal"] == ""
        assert state == served.get("state").json["state"] | {"changed": state["changed"]}
