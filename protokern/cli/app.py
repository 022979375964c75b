"""`protokern app RUN [RUN ...]`: a local page on which runs are questioned and corrected."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from protokern.cli.arguments import add_device_argument, add_set_argument
from protokern.errors import ConfigError

if TYPE_CHECKING:
    from protokern.app.room import Room

TERMINATED = 143  # the exit code after SIGTERM
_LAST_STEP = 10.0  # seconds for a batch of images that is being read when the server ends
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN ..., --data, --port, --device, --set."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or checkpoints of them")
    parser.add_argument("--data", metavar="DIR", help="data folder of all of them; default: that of each run")
    parser.add_argument("--port", type=int, default=8080, help="of this machine; 0: any that is free; default: 8080")
    add_device_argument(parser)
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until the process is stopped."""
    from protokern.app.guard import new_token
    from protokern.app.room import open_room
    from protokern.app.server import HOST, check_packages, make_app, open_port, serve
    from protokern.runs.ensemble import is_ensemble

    check_packages()
    together = [path for path in args.runs if is_ensemble(path)]
    if together:
        raise ConfigError(f"RUN: must be a run; {together[0]} is an ensemble. Give its members, which are runs.")
    token = new_token()
    with open_port(args.port) as listening:
        port = listening.getsockname()[1]
        rooms = [
            open_room(Path(path), f"/{token}/{k}/", data=args.data, changes=args.changes, device=args.device)
            for k, path in enumerate(args.runs)
        ]
        _check_different(rooms)
        for room in rooms:
            print(f"{room.name}: http://{HOST}:{port}{room.address}", flush=True)
        print("Only this machine can open these addresses. Ctrl-C ends the server; edits are kept.", flush=True)
        with _preparing(rooms):
            stopped_by = serve(make_app(rooms, token, port), listening)
    if stopped_by == signal.SIGTERM:
        return TERMINATED
    raise KeyboardInterrupt


def _check_different(rooms: Sequence[Room]) -> None:
    """Refuse two pages of one run: their edits would not wait for each other, as those of two processes do."""
    folders = [room.run.folder.resolve() for room in rooms]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"RUN: must be runs of different folders; got {folder} more than once. Name it once.")


@contextmanager
def _preparing(rooms: Sequence[Room]) -> Iterator[None]:
    """Prepare the pages beside the block, and stop that after it: a thread that computes as Python ends aborts it."""
    stop = threading.Event()
    thread = threading.Thread(target=_prepare, args=(rooms, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_LAST_STEP)


def _prepare(rooms: Sequence[Room], stop: threading.Event) -> None:
    """What the pages need beside answers, run after run; a page says meanwhile what is being done."""

    def go_on(_: str) -> None:
        if stop.is_set():
            raise _StoppedError

    for room in rooms:
        try:
            room.prepare(go_on)
        except _StoppedError:
            return
        except Exception:  # its page says that it cannot be edited; the other pages get their turn
            _log.exception("the images of %s could not be read", room.name)


class _StoppedError(Exception):
    """The server has ended."""
