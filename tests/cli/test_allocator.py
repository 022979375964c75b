"""The C library keeps freed memory: a large buffer that is freed and taken again is not mapped anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from protokern.cli.allocator import keep_freed_memory
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
