"""kill -9 while edits are made: what was acknowledged is in the history, every line is whole, the page opens again."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.served import PATIENCE
from tests.cli.pushed_run import PushedRun

KILLS_BY_THE_CLOCK, KILLS_AT_A_SYNC, KILLS_OF_SERVERS = 20, 10, 3


class Killed:
    """The process of `tests.app.killed`, of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.app.killed", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def order(self, **order: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._read()

    def entries(self) -> list[dict]:
        """The whole lines of the history, in order, without its format."""
        path = self.folder / "edits.jsonl"
        if not path.exists():
            return []
        *whole, _ = path.read_bytes().split(b"\n")  # the last one is cut off or empty
        return [json.loads(line) for line in whole][1:]


@pytest.fixture(scope="module")
def killed(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    one = Killed(shutil.copytree(pushed.folder, tmp_path_factory.mktemp("killed") / "run"))
    with one.process:
        yield one
        assert one.process.stdin is not None
        one.process.stdin.close()


def check(found: list[dict], before: list[dict], tried: list[dict], done: list[dict]) -> None:
    """All that was acknowledged is there, in order, and at most one edit more, which was being made."""
    assert found[: len(before)] == before
    new = found[len(before) :]
    assert new[: len(done)] == done
    assert new[len(done) :] in ([], tried[len(done) :])
    assert len(tried) - len(done) <= 1


@pytest.mark.slow
def test_edits_that_were_acknowledged_outlive_thirty_kills(killed: Killed) -> None:
    draw = random.Random(0)
    faults: list[dict[str, float]] = [{"after": draw.uniform(0.0, 0.12)} for _ in range(KILLS_BY_THE_CLOCK)]
    faults += [{"at_sync": draw.randint(1, 2)} for _ in range(KILLS_AT_A_SYNC)]
    draw.shuffle(faults)
    done = unacknowledged = 0
    for seed, fault in enumerate(faults):
        before = killed.entries()
        reply = killed.order(kind="edit", seed=seed, **fault)
        found = killed.entries()
        check(found, before, reply["tried"], reply["done"])
        done += len(reply["done"])
        unacknowledged += len(found) - len(before) - len(reply["done"])
    assert done >= KILLS_BY_THE_CLOCK
    assert unacknowledged >= 1  # some kills came between the disk and the answer


@pytest.mark.slow
def test_a_killed_server_loses_no_edit_and_opens_again(killed: Killed, tmp_path: Path) -> None:
    draw = random.Random(1)
    for number in range(KILLS_OF_SERVERS):
        before = killed.entries()
        out = tmp_path / f"{number}.txt"
        server = Client(killed.order(kind="serve", out=str(out))["process"], out)
        assert server.wait_for_edits()["revision"] == len(before)
        tried, done = kill_at_work(server, draw)
        killed.order(kind="end", process=server.process, signal=signal.SIGKILL)
        assert done
        check(killed.entries(), before, tried, done)
    out = tmp_path / "last.txt"
    server = Client(killed.order(kind="serve", out=str(out))["process"], out)
    assert server.wait_for_edits()["revision"] == len(killed.entries())
    assert killed.order(kind="end", process=server.process, signal=signal.SIGINT)["code"] == 130
    assert out.read_text().splitlines()[-1] == "protokern app: stopped"


def kill_at_work(server: Client, draw: random.Random) -> tuple[list[dict], list[dict]]:
    """Post edits until the server is dead; what was tried, and what it acknowledged."""
    tried: list[dict] = []
    done: list[dict] = []
    timer: threading.Timer | None = None
    while True:
        edit = {"kind": "forbid", "prototype": draw.randrange(5), "reason": f"edit {draw.random()}"}
        tried.append(edit)
        try:
            status, table = server.ask("POST", "edits", {"edit": edit, "revision": -1})
        except (OSError, http.client.HTTPException):
            return tried, done
        assert status == 200, table
        done.append(edit)
        if timer is None:
            timer = threading.Timer(draw.uniform(0.05, 0.6), os.kill, (server.process, signal.SIGKILL))
            timer.start()


class Client:
    """A server of its own process, by what it prints."""

    def __init__(self, process: int, out: Path) -> None:
        self.process = process
        end = time.monotonic() + PATIENCE
        while "Ctrl-C" not in (text := out.read_text() if out.exists() else ""):
            assert time.monotonic() < end, text
            time.sleep(0.02)
        name, _, address = text.splitlines()[0].partition(": http://")
        assert name == "run"
        self.host, _, self.path = address.partition("/")
        assert self.host.startswith("127.0.0.1:")

    def ask(self, method: str, path: str, content: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            body = None if content is None else json.dumps(content).encode()
            connection.request(method, f"/{self.path}{path}", body)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def wait_for_edits(self) -> dict:
        """The state once edits can be made."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            state: dict = self.ask("GET", "state")[1]["state"]
            if not state["doing"]:
                assert state["refusal"] == ""
                return state
            time.sleep(0.02)
        raise AssertionError("the images were not read in time")
