"""The process of a command: how it frees memory and prints names and warnings."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from protokern.storage.names import one_line

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Reuse large buffers instead of handing them back to the system after every batch.

    By default glibc maps each large buffer again in every step of a training, and the system clears its pages: that
    takes a fourth to a third of the time of EfficientNet-Lite0 on a CPU. The price is a somewhat larger process.

    Returns:
        Whether the C library accepted the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))


@contextmanager
def printing_any_name() -> Iterator[None]:
    """Within the block, characters that stdout cannot encode are printed as escapes, as on stderr."""
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
    """A handler that shows each warning as one line, and equal warnings only once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object, file: TextIO | None = None, **__: object) -> None:
        line = one_line(str(message))
        if line not in shown:
            shown.add(line)
            print(f"warning: {line}", file=file or sys.stderr)

    return show
