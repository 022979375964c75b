"""`protokern app RUN [RUN ...]`: a local page on which runs are questioned and corrected."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protokern.cli.arguments import add_device_argument, add_set_argument
from protokern.errors import ConfigError

if TYPE_CHECKING:
    from protokern.app.room import Room


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
        threading.Thread(target=_prepare, args=(rooms,), daemon=True).start()
        for room in rooms:
            print(f"{room.name}: http://{HOST}:{port}{room.address}", flush=True)
        print("Only this machine can open these addresses. Ctrl-C ends the server; edits are kept.", flush=True)
        serve(make_app(rooms, token, port), listening)
    return 0


def _prepare(rooms: Sequence[Room]) -> None:
    """What the pages need beside answers, run after run; a page says meanwhile what is being done."""
    for room in rooms:
        room.prepare()
