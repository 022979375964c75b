"""`protokern app`: what it refuses, each in one line, before it serves anything."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from protokern.app import server
from protokern.app.server import open_port
from protokern.cli import app
from protokern.cli.main import main
from tests.cli.pushed_run import PushedRun


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["app", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_a_missing_run_and_an_ensemble_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "no") in refusal(capsys, str(tmp_path / "no"), "--port", "0")
    (tmp_path / "ensemble.toml").write_text('members = ["a", "b"]\n')
    assert refusal(capsys, str(tmp_path), "--port", "0") == (
        f"protokern app: RUN: must be a run; {tmp_path} is an ensemble. Give its members, which are runs.\n"
    )


def test_a_port_that_is_taken_is_refused(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    with open_port(0) as listening:
        port = str(listening.getsockname()[1])
        told = refusal(capsys, str(pushed.folder), "--port", port)
    assert told.startswith(f"protokern app: --port: must be free; {port} cannot be used (Address already in use).")
    assert "cannot be used" in refusal(capsys, str(pushed.folder), "--port", "65536")


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_missing_package_is_named(
    name: str, pushed: PushedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert refusal(capsys, str(pushed.folder)) == (
        f"protokern app: app: needs starlette and uvicorn, but {name} is not installed. "
        "Run: pip install 'protokern[app]'\n"
    )


def test_one_run_has_one_page(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Locks exclude other processes: edits of two pages of this one would not wait for each other."""
    folder = str(pushed.folder)
    told = refusal(capsys, folder, f"{folder}/checkpoints/../", "--port", "0", "--device", "cpu")
    assert "RUN: must be runs of different folders; got" in told


def test_data_that_are_not_there_are_refused(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path / "no") in refusal(capsys, str(pushed.folder), "--data", str(tmp_path / "no"), "--port", "0")


@pytest.mark.parametrize(("stopped_by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 130)])
def test_every_run_has_an_address_and_its_turn(
    copy_run: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stopped_by: int | None,
    code: int,
) -> None:
    before = threading.active_count()
    served = []

    def serve(app: object, listening: object) -> int | None:
        served.append(app)
        return stopped_by

    monkeypatch.setattr(server, "serve", serve)
    assert main(["app", str(copy_run()), str(copy_run()), "--port", "0", "--device", "cpu"]) == code
    one, two, last = capsys.readouterr().out.splitlines()
    assert one.startswith("run: http://127.0.0.1:")
    assert one.endswith("/0/")
    assert two == one[:-2] + "1/"
    assert len(one.split("/")[3]) >= 32  # the token
    assert "edits are kept" in last
    assert len(served) == 1
    assert threading.active_count() == before  # nothing computes while Python ends


def test_a_fault_in_one_run_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Room:
        def __init__(self, name: str) -> None:
            self.name, self.is_prepared = name, False

        def prepare(self, tell: Callable[[str], None]) -> None:
            if self.name == "broken":
                raise RuntimeError("a fault")
            self.is_prepared = True

    rooms = [Room("broken"), Room("whole")]
    app._prepare(rooms, threading.Event())  # type: ignore[arg-type]
    assert rooms[1].is_prepared
    assert "the images of broken could not be read" in caplog.text
