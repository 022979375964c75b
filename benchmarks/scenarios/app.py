"""The workbench: `python -m benchmarks app`. How long its first page, an answer and an edit take.

The server of `protokern app` answers over the loopback interface, as a browser would ask it. A run is given, or made up
as by `python -m benchmarks report`. A photograph is sent several times; prototypes are forbidden one after the other,
each until the reply with all new numbers has come, and undone again. Chromium opens the page several times, each time
in a new context.
"""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.pages.page_rows import AppRow
from benchmarks.pages.results import APP, append_rows
from benchmarks.pages.targets import app_verdict
from benchmarks.scenarios.report import Size, make_run, open_in_chromium
from benchmarks.scenarios.scenario import begin, columns, flags
from protokern.app.guard import new_token
from protokern.app.room import Room, open_room
from protokern.app.server import HOST, make_app, open_port, serve


class Client:
    """Asks a page as a browser would, over one connection."""

    def __init__(self, port: int, base: str) -> None:
        self.port, self.base = port, base

    def __call__(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of a reply; that of the page itself is not read."""
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=600)) as connection:
            connection.request(method, self.base + path, body, {"Host": f"{HOST}:{self.port}"})
            reply = connection.getresponse()
            content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {content[:300]!r}")
        return json.loads(content) if path else None


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(taken), 1)


def time_edits(client: Client, numbers: Sequence[int]) -> tuple[float | None, float | None]:
    """Medians of forbidding each of some prototypes, and of undoing it, in milliseconds."""
    forbids: list[float] = []
    undos: list[float] = []
    for number in numbers:
        for taken, edit in ((forbids, {"kind": "forbid", "prototype": number}), (undos, {"kind": "undo"})):
            revision = client("GET", "state?revision=0")["state"]["revision"]
            body = json.dumps({"edit": edit, "revision": revision}).encode()
            start = time.perf_counter()
            client("POST", "edits", body)
            taken.append((time.perf_counter() - start) * 1000)
    if not numbers:
        return None, None
    return round(statistics.median(forbids), 1), round(statistics.median(undos), 1)


def measure(machine: Machine, case: str, folder: Path, photo: Path | None, rounds: int, edits: int) -> AppRow:
    """Serve a run and ask it."""
    token = new_token()
    with open_port(0) as listening:
        port = listening.getsockname()[1]
        start = time.perf_counter()
        room = open_room(folder, f"/{token}/0/", device="cpu")
        opened = time.perf_counter()
        room.prepare()
        prepared = time.perf_counter()
        threading.Thread(target=serve, args=(make_app([room], token, port), listening), daemon=True).start()
        client = Client(port, room.address)
        image = _photo(room) if photo is None else photo.read_bytes()
        client("POST", "ask?name=photo.jpg", image)  # the first one is not warm
        with watch_others() as others:
            page_ms = milliseconds(lambda: client("GET", ""), rounds)
            ask_ms = milliseconds(lambda: client("POST", "ask?name=photo.jpg", image), rounds)
            forbid_ms, undo_ms = time_edits(client, range(edits))
        # Chromium would count as other work.
        views = open_in_chromium(f"http://{HOST}:{port}{room.address}", rounds)
    size = room.run.config.data.image_size
    assert room.splits is not None
    return AppRow(
        **columns(machine, others),
        case=case,
        backbone=room.run.config.model.backbone,
        image_size=size if isinstance(size, int) else max(size),
        prototypes=room.run.model.num_prototypes,
        classes=len(room.run.classes),
        train_images=len(room.splits.push),
        all_images=sum(map(len, (room.splits.push, room.splits.val, room.splits.test))),
        open_s=round(opened - start, 2),
        prepare_s=round(prepared - opened, 2),
        rounds=rounds,
        page_ms=page_ms,
        ask_ms=ask_ms,
        forbid_ms=forbid_ms,
        undo_ms=undo_ms,
        browser=None if views is None else views.browser,
        paint_ms=None if views is None else views.paint_ms,
        load_ms=None if views is None else views.load_ms,
    )


def _photo(room: Room) -> bytes:
    """The file of a test image."""
    assert room.splits is not None
    path = room.splits.test.source_path(0)
    assert path is not None
    return path.read_bytes()


def show(row: AppRow) -> None:
    print(f"{row.case}: {row.prototypes} prototypes, {row.train_images} training images, {row.all_images} in all")
    print(f"opened in {row.open_s:.1f} s, its images read in {row.prepare_s:.1f} s; page made in {row.page_ms:.0f} ms")
    for line in app_verdict(row):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("app", __doc__, APP)
    parser.add_argument("--run", type=Path, help="run folder with its data; copied first; default: one that is made up")
    parser.add_argument("--photo", type=Path, help="image that is asked about; default: a test image")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--prototypes-per-class", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=20, help="of each class")
    parser.add_argument("--test-images", type=int, default=5, help="of each class")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, square")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--edits", type=int, default=3, help="prototypes that are forbidden in turn")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    with tempfile.TemporaryDirectory() as root:
        if arguments.run is None:
            size = Size(**{field.name: getattr(arguments, field.name) for field in fields(Size)})
            case, folder = "made up", make_run(Path(root), size)[0]
        else:
            case, folder = arguments.run.resolve().name, _copied(arguments.run, Path(root))
        row = measure(machine, case, folder, arguments.photo, arguments.rounds, arguments.edits)
    show(row)
    append_rows(arguments.out, [row])
    return 0


def _copied(run: Path, root: Path) -> Path:
    """A copy whose history of edits begins anew; stored features stay where they are."""
    folder = root / run.resolve().name
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("edits.jsonl", "report"))
    return folder
