"""How names and messages get to a person: on one line, whatever they are made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from protokern.storage.names import one_line


@contextmanager
def printing_any_name() -> Iterator[None]:
    """Within the block names that are no text in the encoding of stdout are printed with escapes, as stderr does."""
    stream, before = sys.stdout, getattr(sys.stdout, "errors", None)
    if not isinstance(stream, TextIOWrapper) or before not in ("strict", "surrogateescape"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def show_warnings_once() -> Callable[..., None]:
    """What shows warnings as one line each, and the same words only once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object, file: TextIO | None = None, **__: object) -> None:
        line = one_line(str(message))
        if line not in shown:
            shown.add(line)
            print(f"warning: {line}", file=file or sys.stderr)

    return show
