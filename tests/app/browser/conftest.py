"""A server of tiny runs and a headless Chromium; without one the tests are skipped, with the reason."""

from __future__ import annotations

import io
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.pushed_run import PushedRun, make_pool_run, make_run
from tests.report.browser.conftest import browser as browser  # a fixture

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'protokern[app]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'protokern[app]'")

from protokern.app.room import Room, open_room  # noqa: E402
from protokern.app.server import HOST, make_app, open_port  # noqa: E402
from protokern.edits.history import EDITS_FILE  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE_CLASSES = ('"><img src=x onerror=alert(1)>', "\N{RIGHT-TO-LEFT OVERRIDE}סלע 松鸦 \N{BIRD} " + "y" * 150)
HOSTILE_FILES = ("<script>alert(2)<script>", "a' onload='alert(3)", "z" * 200, "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe")
TOKEN = "token"


def photograph(kind: str = "across", shape: tuple[int, int] = (40, 40)) -> bytes:
    """The PNG file of a picture of stripes."""
    wave = 128 + 90 * np.sin(np.arange(shape[0])[:, None] + np.zeros(shape))
    pixels = (wave if kind == "across" else wave.T).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([pixels, pixels // 2, 255 - pixels], axis=-1)).save(file, "PNG")
    return file.getvalue()


def sent(name: str, content: bytes | None = None) -> dict[str, Any]:
    """A file for a file chooser."""
    return {"name": name, "mimeType": "image/png", "buffer": photograph() if content is None else content}


def write_hostile(root: Path) -> None:
    """As `write_photos`, with names that attack a page."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(HOSTILE_CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wave = 128 + 90 * np.sin(np.arange(40) * rng.uniform(0.6, 1.2))
                grey = (wave[:, None] if label == 0 else wave[None, :]) + np.zeros((40, 40))
                stem = HOSTILE_FILES[number % len(HOSTILE_FILES)]
                Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(folder / f"{number}{stem}.png")


@dataclass
class Served:
    """Some runs behind a port, which can be stopped and started again."""

    rooms: list[Room]
    port: int = 0
    server: Any = None
    thread: threading.Thread | None = None

    def address(self, at: int = 0) -> str:
        return f"http://{HOST}:{self.port}{self.rooms[at].address}"

    def start(self) -> None:
        listening = open_port(self.port)
        self.port = int(listening.getsockname()[1])
        app = make_app(self.rooms, TOKEN, self.port)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        assert self.thread is not None
        self.server.should_exit = True
        self.thread.join(20)


def serve(folders: Sequence[Path], *, is_prepared: bool = True) -> Served:
    """A server of these runs."""
    rooms = [open_room(path, f"/{TOKEN}/{k}/", device="cpu") for k, path in enumerate(folders)]
    if is_prepared:
        for room in rooms:
            room.prepare()
    served = Served(rooms)
    served.start()
    return served


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="session")
def main_server(small_run: PushedRun) -> Iterator[Served]:
    served = serve([small_run.folder])
    yield served
    served.stop()


@pytest.fixture
def app(main_server: Served, small_run: PushedRun) -> Iterator[Served]:
    """The server of one small run, without edits."""
    yield main_server
    (small_run.folder / EDITS_FILE).unlink(missing_ok=True)
    room = main_server.rooms[0]
    with room.lock:
        room.refresh()


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Three runs: with hostile names, of a ProtoPool, and without its data."""
    root = tmp_path_factory.mktemp("others")
    for name in ("hostile", "pool", "bare"):
        (root / name).mkdir()
    runs = [make_run(root / "hostile", write=write_hostile)]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # no class uses two of its prototypes
        runs.append(make_pool_run(root / "pool"))
    runs.append(make_run(root / "bare"))
    shutil.rmtree(runs[2].data)
    served = serve([one.folder.rename(one.folder.with_name(f"run-{k}")) for k, one in enumerate(runs)])
    yield served
    served.stop()


@dataclass
class Opened:
    """Opens pages, and remembers what must not be: errors, warnings, and requests to anybody else.

    Attributes:
        expected: parts of messages that the browser itself writes about refused requests.
    """

    browser: Browser
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(
        self, address: str, *, width: int = 1280, scheme: str = "light", has_touch: bool = False, beside: Any = None
    ) -> Page:
        context = beside or self.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=has_touch
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.set_default_navigation_timeout(30_000)  # a busy machine starts slowly
        page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        return page

    def strangers(self) -> list[str]:
        """Requests that did not go to a server of this machine below its token."""
        own = f"http://{HOST}:"
        return [
            url
            for url in self.requests
            if not url.startswith("data:") and not (url.startswith(own) and f"/{TOKEN}/" in url)
        ]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    opened = Opened(browser)
    yield opened
    for context in browser.contexts:
        context.close()
    assert [one for one in opened.faults if not any(part in one for part in opened.expected)] == []
    assert opened.strangers() == []
