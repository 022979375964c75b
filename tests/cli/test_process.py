"""The process of a command: a freed buffer is used again, a warning is shown once."""

from __future__ import annotations

import io
import platform
import subprocess
import sys

import pytest

from protokern.cli.process import show_warnings_once

PROGRAM = """
import ctypes, resource
from protokern.cli.process import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = ctypes.c_void_p(libc.malloc(64 << 20))
    ctypes.memset(buffer, 1, 64 << 20)
    libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert keep_freed_memory()
first, again = faults(), faults()
assert first >= 16, first  # even with pages of 2 MiB
assert again <= first // 8, (first, again)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_freed_buffer_is_used_again() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_a_warning_is_shown_once_in_a_run() -> None:
    file = io.StringIO()
    show = show_warnings_once()
    for message in ("one", "two", "one"):
        show(UserWarning(message), UserWarning, "file.py", 1, file=file)
    assert file.getvalue() == "warning: one\nwarning: two\n"
    show_warnings_once()("one", UserWarning, "file.py", 1, file=file)
    assert file.getvalue().count("one") == 2
