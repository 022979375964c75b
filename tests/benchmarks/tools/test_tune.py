"""The search for the best tiles, with a made-up timer: everything but the times of a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from benchmarks.tools import tune
from benchmarks.tools.tune import Task, as_row, best, candidates, make_inputs, merged
from protokern.kernels.triton_common import availability
from protokern.kernels.triton_common.configs import Config, choose, rows, write_rows
from protokern.kernels.triton_common.limits import KNOWN_LIMITS

pytestmark = [
    pytest.mark.skipif(not availability.is_interpreted(), reason="runs under Triton's interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    # Triton 3.6 takes numbers out of arrays in a way that NumPy 2.4 refuses and earlier ones warn of.
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
CPU = torch.device("cpu")
TINY = (2, 16, 3, 3, 8)
CHOICES = [Config(16, block_n, 16, 4, 2, 2, "") for block_n in (16, 32)]
H200 = KNOWN_LIMITS[90]


# A process of its own: in this one kernels are interpreted. The driver stands in for a GPU's and launches nothing.
AHEAD = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from benchmarks.tools import tune_ahead
from benchmarks.tools.tune import Task, ahead_call
from functools import partial
from protokern.kernels.triton_common.configs import Config
from protokern.kernels.triton_common.limits import KNOWN_LIMITS

class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

driver.set_active(Driver())
for op in ("min_distance", "topk_distance", "mean_activation"):
    task = Task(op, "tf32", (64, 64, 14, 14, 300))
    for block_d in (32, 48):
        config = Config(64, 64, block_d, 4, 2, 2, "")
        said = tune_ahead.compile_candidate(partial(ahead_call, task), config, KNOWN_LIMITS[90])
        print(op, block_d, "refused" if said else "compiled")
"""


class MadeUpTimer:
    """The times are given; the calls are made once each."""

    def __init__(self, *times: float) -> None:
        self.times = iter(times)

    def __call__(self, call: object) -> float:
        assert callable(call)
        call()
        return next(self.times)


@pytest.mark.parametrize("op", tune.OPS)
def test_the_fastest_of_the_right_ones(op: str) -> None:
    task = Task(op, "fp32", TINY)
    config, milliseconds = best(task, make_inputs(task, CPU), CHOICES, MadeUpTimer(2.0, 1.0))
    assert (config, milliseconds) == (CHOICES[1], 1.0)


def test_wrong_results_are_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("min_distance", "fp32", TINY)
    features, prototypes = make_inputs(task, CPU)
    answers = iter([torch.ones(2, 8), tune.nearest_reference.min_distance(features, prototypes, "sqeuclidean")[0]])
    config, _ = best(task, (features, prototypes), CHOICES, lambda call: 3.0, lambda: (next(answers),))
    assert config == CHOICES[1]
    assert "WRONG RESULT, not timed" in capsys.readouterr().out


def test_no_right_one_is_an_error() -> None:
    task = Task("min_distance", "fp32", TINY)
    with pytest.raises(RuntimeError, match="no tiles give the right result"):
        best(task, make_inputs(task, CPU), CHOICES, lambda call: 3.0, lambda: (torch.ones(2, 8),))


@pytest.mark.parametrize("arch", [75, 80, 86, 90])
@pytest.mark.parametrize("op", tune.OPS)
def test_candidates_fit_the_device(op: str, arch: int) -> None:
    found = candidates(Task(op, "fp32", tune.SIZES[0]), KNOWN_LIMITS[arch])
    assert len(found) == len(set(found)) > 10
    assert all(config.block_p * config.block_n <= 128 * 32 * config.warps for config in found)


def test_found_rows_take_the_place_of_those_for_the_same_problem() -> None:
    old = as_row(Task("min_distance", "fp32", TINY), CHOICES[0], H200, "derived")
    other = replace(old, arch=80)
    new = replace(old, config=CHOICES[1], source="NVIDIA H200")
    assert merged([old, other], [new]) == [other, new]


def test_the_table_is_written_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "configs.csv"
    write_rows(list(rows()), path)
    task = Task("min_distance", "fp32", TINY)
    tune.tune([task], CPU, "made up", MadeUpTimer(2.0, 1.0), path, lambda task, limits: CHOICES)
    (row,) = [row for row in rows(path) if row.source == "made up"]
    assert row == as_row(task, CHOICES[1], H200, "made up")
    assert len(rows(path)) == len(rows()) + 1
    assert choose("min_distance", 90, torch.float32, "fp32", 16, 9, 8) != CHOICES[1]  # the package's own is untouched


def test_needs_a_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        tune.main([])
    assert "no CUDA device is present; tiles are measured where they are to run." in capsys.readouterr().err


def test_needs_a_process_that_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["--jobs", "0"])
    assert "--jobs: must be at least 1; got 0." in capsys.readouterr().err


@pytest.mark.slow
def test_candidates_are_compiled_ahead_into_the_cache_of_the_disk(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", AHEAD], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # 48 is no power of two: one op takes the one below, two leave it to the compiler, whose refusal is no error here.
    assert done.stdout.splitlines() == [
        "min_distance 32 compiled",
        "min_distance 48 compiled",
        "topk_distance 32 compiled",
        "topk_distance 48 refused",
        "mean_activation 32 compiled",
        "mean_activation 48 refused",
    ]
    kernels = {path.stem for path in tmp_path.rglob("*.cubin")}
    assert {"min_distance_search_kernel", "topk_search_kernel", "mean_activation_kernel", "prep_kernel"} <= kernels


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfResources(2, 1, "shared memory"), "out of resource: shared memory"),
        (RuntimeError("PassManager::run failed"), "PassManager::run failed"),
    ],
    ids=["no room", "refused by the compiler"],
)
def test_what_cannot_run_is_passed_over(error: Exception, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("min_distance", "fp32", TINY)
    inputs = make_inputs(task, CPU)
    right = tune.nearest_reference.min_distance(*inputs, "sqeuclidean")
    calls = iter([error, right])

    def call() -> object:
        answer = next(calls)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert best(task, inputs, CHOICES, lambda call: 3.0, call)[0] == CHOICES[1]
    assert said in capsys.readouterr().out


def test_both_ways_of_a_search_for_few_prototypes_are_tried() -> None:
    paths = [{config.path for config in candidates(Task("min_distance", "fp32", size), H200)} for size in tune.SIZES]
    assert paths == [{"operands"}, {"operands"}, {"operands", "strided"}, {"operands", "strided"}]
