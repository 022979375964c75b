"""The check of what the CUDA kernels take of the processor: reads ptxas, finds spills, compares with the table."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN9protokern4cuda11mean_kernelIfEEvPKT_liiPS2_' for 'sm_90'
ptxas info    : Function properties for mean_kernel
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 8704 bytes smem
"""


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "csrc" / "tests"))
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not installed")
    return __import__("cuda_resources")


def test_reads_what_ptxas_says(resources: ModuleType) -> None:
    (row,) = resources.rows_of(REPORT, "sm_90", "13.0.88")
    assert row == {
        "kernel": "mean_kernel<float>",
        "architecture": "sm_90",
        "registers": "168",
        "shared_bytes": "8704",
        "stack_bytes": "8",
        "spill_stores": "16",
        "spill_loads": "24",
        "nvcc": "13.0.88",
    }


def test_spills_fail_with_any_release_of_the_compiler(resources: ModuleType) -> None:
    rows = resources.rows_of(REPORT, "sm_90", "99.0")
    (problem,) = resources.problems(rows, resources.rows_of(REPORT, "sm_90", "13.0.88"))
    assert problem == ("mean_kernel<float> on sm_90: spills 16 bytes to and 24 from local memory (stack 8 bytes)")


def test_a_change_that_the_table_does_not_have_fails(resources: ModuleType) -> None:
    clean = REPORT.replace(
        "8 bytes stack frame, 16 bytes spill stores, 24", "0 bytes stack frame, 0 bytes spill stores, 0"
    )
    before = resources.rows_of(clean, "sm_90", "13.0.88")
    assert resources.problems(before, before) == []
    after = resources.rows_of(clean.replace("168", "170"), "sm_90", "13.0.88")
    (problem,) = resources.problems(after, before)
    assert "168" in problem
    assert "170" in problem
    assert problem.endswith("Run with --write.")


def test_the_table_has_every_kernel_and_no_spills() -> None:
    with (ROOT / "csrc" / "core" / "cuda" / "resources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["architecture"] for row in rows} == {"sm_80", "sm_90"}
    assert all(row["stack_bytes"] == row["spill_stores"] == row["spill_loads"] == "0" for row in rows)
    listed = {row["kernel"].partition("<")[0] for row in rows}
    text = "".join(path.read_text() for path in (ROOT / "csrc" / "core" / "cuda").glob("*.cu"))
    assert listed == set(re.findall(r"__global__[^{;]*?(\w+_kernel)\(", text))
