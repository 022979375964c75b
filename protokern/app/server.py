"""The server of the workbench: addresses, and what is behind each."""

from __future__ import annotations

import json
import logging
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from protokern.app.browse import view_images, view_near, view_window
from protokern.app.editor import StaleError
from protokern.app.guard import Guard, policy
from protokern.app.pages import view_asked, view_page, view_prototypes, view_state
from protokern.app.room import Asked, Room
from protokern.app.saving import save_as
from protokern.edits.records import EditError, from_table
from protokern.errors import ConfigError, DataError, MissingPackageError, ProtokernError
from protokern.report.page import render_live
from protokern.runs.data import read_sent
from protokern.storage.names import one_line

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
FAULT = "This is a fault of the program. The terminal of the server says more."
MOST_BYTES = 64 * 2**20  # of an image that is sent
MOST_JSON = 2**16  # bytes of another request; a line of the history, with its escapes, has three times as many at most
_LONGEST_REFUSAL = 600  # letters
_LONGEST_NAME = 200  # letters of the name of an image
_LAST_ANSWERS = 5  # seconds for requests that are being answered when the server is stopped
_SCRIPTS = ("asking", "browsing", "limits", "editing", "app")
_FOREVER = "private, max-age=31536000, immutable"  # a picture never changes under its address
_log = logging.getLogger(__name__)
Handler = Callable[[Room, "Request", bytes], dict[str, Any]]


class TooMuchError(ProtokernError):
    """More was sent than is taken."""


def check_packages() -> None:
    """Raise a MissingPackageError unless the packages of the server are there."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"app: needs starlette and uvicorn, but {error.name} is not installed. Run: pip install 'protokern[app]'"
        ) from error


def open_port(port: int) -> socket.socket:
    """A socket of this machine alone.

    Args:
        port: 0: any that is free.

    Raises:
        ConfigError: it is taken, or may not be used.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # two sockets that do not listen may have one port
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(
            f"--port: must be free; {port} cannot be used ({getattr(error, 'strerror', None) or error}). "
            "Give another one, or 0 for any."
        ) from error
    return listening


def make_app(rooms: Sequence[Room], token: str, port: int) -> Any:
    """The server (ASGI) of some runs, whose addresses are /TOKEN/0/, /TOKEN/1/ and so on.

    Args:
        rooms: with these addresses.
        token: see `new_token`.
        port: of the server.
    """
    from starlette.applications import Starlette
    from starlette.responses import RedirectResponse
    from starlette.routing import Route

    answers = {
        "state": ("GET", _state),
        "images": ("GET", _images),
        "near": ("GET", _near),
        "explain": ("GET", _explain),
        "ask": ("POST", _ask),
        "window": ("POST", _window),
        "edits": ("POST", _edit),
        "save": ("POST", _save),
    }
    routes = [Route(f"/{token}/", lambda request: RedirectResponse(f"/{token}/0/"))]
    for room in rooms:
        others = [[other.address, other.name] for other in rooms if other is not room]
        routes += [
            Route(room.address, partial(_page, room, others)),
            Route(f"{room.address}pictures/{{name}}", partial(_picture, room)),
            *(
                Route(f"{room.address}{name}", partial(_answer, room, handle), methods=[method])
                for name, (method, handle) in answers.items()
            ),
        ]
    return Guard(Starlette(routes=routes), token, port)


def make_server(app: Any) -> uvicorn.Server:
    """What runs an app of `make_app` on a socket, and can be told to stop; in the main thread signals tell it, too.

    Its `stopped_by` is then the signal. Left to itself, uvicorn raises the signal again as it ends, and swallows it at
    some moments.
    """
    import uvicorn

    class Server(uvicorn.Server):
        stopped_by: int | None = None

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def _stop(self, number: int, frame: object) -> None:
            self.force_exit = self.should_exit and number == signal.SIGINT  # the second Ctrl-C does not wait
            self.stopped_by, self.should_exit = number, True

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_LAST_ANSWERS,
    )
    return Server(config)


def serve(app: Any, listening: socket.socket) -> int | None:
    """Answer until the process is stopped; return the signal that did it, or None if it came before all answers."""
    server = make_server(app)
    server.run(sockets=[listening])
    stopped_by: int | None = getattr(server, "stopped_by", None)
    return stopped_by


async def _page(room: Room, others: list[list[str]], request: Request) -> Response:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, PlainTextResponse

    nonce = secrets.token_urlsafe(16)

    def render() -> str:
        with room.lock:
            table = view_page(room, others)
        templates = files("protokern.app") / "templates"
        scripts = "".join((templates / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
        style = (templates / "app.css").read_text(encoding="utf-8")
        return render_live(table, scripts=scripts, style=style, nonce=nonce)

    try:
        page = await run_in_threadpool(render)
    except ProtokernError as error:
        return PlainTextResponse(_sentence(error), 400)
    except Exception:
        _log.exception("the page of %s failed", room.name)
        return PlainTextResponse(FAULT, 500)
    return HTMLResponse(page.encode("utf-8", "replace"), headers={"content-security-policy": policy(nonce)})


async def _picture(room: Room, request: Request) -> Response:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    try:
        data = await run_in_threadpool(room.pictures.read, request.path_params["name"])
    except (ProtokernError, OSError):  # its file is gone or broken
        data = None
    if data is None:
        return Response("There is no such picture.", 404)
    return Response(data, media_type="image/jpeg", headers={"cache-control": _FOREVER})


async def _answer(room: Room, handle: Handler, request: Request) -> Response:
    """What a handler gives, or in one sentence why it gives nothing."""
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response

    def answer(body: bytes) -> bytes:
        return _to_json(handle(room, request, body))

    try:
        body = await _body(request, MOST_BYTES if handle is _ask else MOST_JSON)
        status, content = 200, await run_in_threadpool(answer, body)
    except ClientDisconnect:
        return Response(status_code=400)
    except ProtokernError as error:
        status, content = _status_of(error), _to_json({"error": _sentence(error)})
    except Exception:
        _log.exception("a request to the page of %s failed", room.name)
        status, content = 500, _to_json({"error": FAULT})
    return Response(content, status, media_type="application/json")


def _status_of(error: ProtokernError) -> int:
    return 413 if isinstance(error, TooMuchError) else 409 if isinstance(error, StaleError) else 400


def _sentence(error: ProtokernError) -> str:
    """A refusal in one line: what somebody sent may be a part of it."""
    text = one_line(str(error))
    return text if len(text) <= _LONGEST_REFUSAL else f"{text[: _LONGEST_REFUSAL - 1]}…"


def _to_json(table: dict[str, Any]) -> bytes:
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


async def _body(request: Request, most: int) -> bytes:
    """All bytes that were sent; no more than `most` are ever held, and the server drops what comes after them."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            limit = f"{most / 2**20:.0f} MB" if most >= 2**20 else f"{most / 2**10:.0f} kB"
            raise TooMuchError(f"What is sent must have at most {limit}. Send a smaller file or a shorter text.")
        parts.append(part)
    return b"".join(parts)


def _state(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    """The state; with the prototypes if the page shows those of another revision."""
    with room.lock:
        room.refresh()
        return _since(room, _number(request, "revision", -1))


def _since(room: Room, revision: int) -> dict[str, Any]:
    state = {"state": view_state(room)}
    return state if revision == room.current.revision else {**state, "page": view_prototypes(room)}


def _images(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    of_class = _number(request, "class", -1)
    query = request.query_params
    with room.lock:
        return view_images(
            room,
            split=query.get("split", "test"),
            of_class=None if of_class < 0 else of_class,
            verdict=query.get("verdict", "all"),
            order=query.get("order", "data"),
            start=_number(request, "start", 0),
        )


def _near(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    with room.lock:
        return view_near(room, _number(request, "prototype", -1))


def _explain(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    reference, label = request.query_params.get("image", ""), _number(request, "class", -1)
    if label >= len(room.run.classes):
        raise DataError(f"class: must be from 0 to {len(room.run.classes) - 1}; got {label}.")
    with room.lock:
        asked = room.find(reference)
        if label >= 0 and not asked.split:
            asked = replace(asked, label=label)
        return view_asked(room, asked, reference, frame=_frame(request))


def _ask(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    name = re.sub(r"[/\\]", "_", one_line(request.query_params.get("name", "")))[:_LONGEST_NAME] or "image"
    asked = Asked(pixels=read_sent(room.run.config, name, body), name=name)
    with room.lock:
        return view_asked(room, asked, room.take(asked), frame=_frame(request))


def _frame(request: Request) -> str:
    return "sufficient" if request.query_params.get("frame") == "sufficient" else "grid"


def _window(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    table = _table(body)
    window = table.get("window")
    if not (
        isinstance(window, list) and len(window) == 4 and all(type(one) is int and abs(one) < 2**31 for one in window)
    ):
        raise DataError("window: must be [row, column, rows, columns].")
    with room.lock:
        return view_window(room, room.find(_text(table, "image")), (window[0], window[1], window[2], window[3]))


def _edit(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    table = _table(body)
    revision = table.get("revision")
    try:
        entry = from_table(table.get("edit"))
    except EditError as error:
        raise EditError(f"edit: {error}.") from error
    with room.lock:
        room.edit(entry, revision if type(revision) is int else -1)
        return _since(room, -1)


def _save(room: Room, request: Request, body: bytes) -> dict[str, Any]:
    with room.lock:
        return save_as(room, _text(_table(body), "name"))


def _table(body: bytes) -> dict[str, Any]:
    try:
        table = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"A request must be a JSON object ({error}).") from error
    if not isinstance(table, dict):
        raise DataError(f"A request must be a JSON object; got {type(table).__name__}.")
    return table


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise DataError(f"{name}: must be a text; got {type(value).__name__}.")
    return value


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise DataError(f"{name}: must be a whole number from 0; got {text[:20]!r}.")
    return int(text)
