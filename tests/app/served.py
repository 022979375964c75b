"""Runs behind a real server in a thread, on any free port of this machine, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protokern.app.room import Room, open_room
from protokern.app.server import make_app, make_server, open_port

TOKEN = "t0ken-of-a_test"
PATIENCE = 30  # seconds for an answer; a server that hangs fails a test


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal."""
        table = self.json
        assert list(table) == ["error"], table
        text = table["error"]
        assert isinstance(text, str)
        assert text.strip() == text
        assert "\n" not in text
        assert text.endswith((".", "…")), text
        return text


@dataclass(frozen=True)
class Served:
    """Rooms and the port at which their pages are."""

    rooms: Sequence[Room]
    port: int

    @property
    def room(self) -> Room:
        return self.rooms[0]

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask at any path of the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str = "", place: int = 0) -> Reply:
        """Ask at a path below the page of a run."""
        return self.send("GET", f"{self.rooms[place].address}{path}")

    def post(self, path: str, content: Any, place: int = 0) -> Reply:
        """Send bytes as they are, all else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.send("POST", f"{self.rooms[place].address}{path}", body)

    def edit(self, kind: str, *, revision: int = -1, place: int = 0, **fields: Any) -> Reply:
        return self.post("edits", {"edit": {"kind": kind, **fields}, "revision": revision}, place)

    def raw(self, content: bytes, *, ends: bool = False) -> bytes:
        """Send bytes that need be no HTTP, and the end of them or not; what came back until the connection closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(content)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def serving(*folders: Path, prepare: bool = True, data: str | None = None) -> Iterator[Served]:
    """Serve runs until the end of the block."""
    rooms = [open_room(folder, f"/{TOKEN}/{k}/", data=data, device="cpu") for k, folder in enumerate(folders)]
    if prepare:
        for room in rooms:
            room.prepare()
    with open_port(0) as listening:
        port = listening.getsockname()[1]
        server = make_server(make_app(rooms, TOKEN, port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield Served(rooms, port)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
