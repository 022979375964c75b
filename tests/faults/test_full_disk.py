"""A disk that fills up: one line says so, and with room again the run goes on to the same bits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Forks, WholeRun
from .outcome import check_same

SIZES = (700, 1900, 3100, 4300)  # KiB; the run needs six thousand


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs; tests/runs/test_checkpoints.py fills the disk by injected errors")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here ({mounted.stderr.strip()})")
    yield disk
    subprocess.run(["umount", disk], check=True)


def resize(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", disk], check=True)


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(
    forks: Forks, whole: WholeRun, small_disk: Path
) -> None:
    folder = small_disk / "run"
    for size in SIZES:
        resize(small_disk, size)
        result = forks.train(folder)
        assert result.code == 2
        assert "No space left on device" in result.error
        assert result.error.count("\n") == 1
        assert forks.run("evaluate", folder).code in (0, 2)  # 2: there is no checkpoint yet
    resize(small_disk, 64 * 1024)
    result = forks.train(folder)
    assert result.code == 0, result.error
    assert "going on from" in result.output
    check_same(folder, whole.outcome)
