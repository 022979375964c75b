"""The stored table of what Triton kernels need: complete, within every bound, and what the compiler says today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from benchmarks.tools import triton_resources
from benchmarks.tools.triton_resources import ARCHITECTURES, Resources, read_table
from protokern.kernels.triton_common.limits import KNOWN_LIMITS

# A process of its own: kernels that this one has imported may be interpreted, and such cannot be compiled.
PROGRAM = """
import json, sys
from dataclasses import asdict
from benchmarks.tools import triton_resources
launches = {arch: triton_resources.every_launch(arch) for arch in triton_resources.ARCHITECTURES}
wanted = [tuple(key) for key in json.loads(sys.argv[1])]
names = [(arch, launch.name, launch.configuration) for arch in launches for launch in launches[arch]]
compiled = [
    asdict(triton_resources.compile_launch(launch, arch))
    for arch in launches
    for launch in launches[arch]
    if (arch, launch.name, launch.configuration) in wanted
]
print(json.dumps({"names": names, "compiled": compiled}))
"""
TABLE = read_table()
# Whose products are large enough for a warp group.
WITH_PRODUCTS = ("min_distance_search_kernel", "topk_search_kernel", "mean_activation_kernel")
# Of each the first row with these words, where the whole table would take minutes.
RECOMPILED = (
    (90, "min_distance_search_kernel", ""),
    (90, "topk_search_kernel", ""),
    (90, "topk_exhaustive_kernel", "FLAGGED=False"),
    (90, "mean_grad_features_kernel", ""),
    (80, "min_distance_search_kernel", ""),
    (80, "distance_map_kernel", ""),
    (80, "mean_activation_kernel", ""),
)


@dataclass(frozen=True)
class Today:
    """What this version of the package launches, and some of it compiled."""

    names: set[tuple[int, str, str]]
    compiled: list[Resources]


def key(row: Resources) -> tuple[int, str, str]:
    return row.arch, row.kernel, row.configuration


def first_of(arch: int, kernel: str, words: str) -> Resources:
    return next(row for row in TABLE if (row.arch, row.kernel) == (arch, kernel) and words in row.configuration)


@pytest.fixture(scope="module")
def today() -> Today:
    wanted = json.dumps([key(first_of(*each)) for each in RECOMPILED])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # What Triton 3.9 says about a default that the launches state.
    environment["PYTHONWARNINGS"] = "ignore"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, wanted], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Today({tuple(name) for name in said["names"]}, [Resources(**row) for row in said["compiled"]])


@pytest.mark.slow
def test_every_launch_is_in_the_table_and_nothing_else(today: Today) -> None:
    assert today.names == {key(row) for row in TABLE}, "run python -m benchmarks triton-resources"


@pytest.mark.slow
def test_what_is_compiled_today_keeps_the_bounds(today: Today) -> None:
    assert {key(row)[:2] for row in today.compiled} == {(arch, kernel) for arch, kernel, _ in RECOMPILED}
    for row in today.compiled:
        check_bounds(row)


@pytest.mark.slow
def test_the_version_that_wrote_the_table_gives_the_same_numbers(today: Today) -> None:
    stored = {key(row): row for row in TABLE}
    for row in today.compiled:
        if row.triton == stored[key(row)].triton:
            assert row == stored[key(row)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_spills_and_all_fit(arch: int) -> None:
    rows = [row for row in TABLE if row.arch == arch]
    assert rows
    for row in rows:
        check_bounds(row)


def test_what_cannot_be_compiled_is_refused_and_the_table_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        triton_resources.main(["--out", str(tmp_path / "table.csv")])
    assert "TRITON_INTERPRET: must not be set" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_compiles_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delattr(triton_resources, "every_launch")
    with pytest.raises(SystemExit, match="0"):
        triton_resources.main(["--help"])
    assert "--out" in capsys.readouterr().out


def check_bounds(row: Resources) -> None:
    assert (row.stack, row.spills) == (0, 0), row
    assert row.registers <= 255, row
    assert row.shared <= KNOWN_LIMITS[row.arch].shared_bytes, row
    if row.arch == 90 and row.kernel in WITH_PRODUCTS:
        assert row.wgmma == 1, row
