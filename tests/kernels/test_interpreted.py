"""Which tests Triton's interpreter runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .cases import SMALL, Case
from .interpreted import (
    CASES_OF_SLOW_KERNELS,
    interpreter_leaves_out,
    interpreter_runs,
    interpreter_runs_for_every_op,
    is_new_layout,
    reason_left_out,
)

MODULE = interpreter_runs()
SLOW_MODULE = interpreter_runs(case=CASES_OF_SLOW_KERNELS, of_features=())
LAYOUTS = interpreter_runs(when=is_new_layout, because="the offsets are those of another case")
SHARED = interpreter_leaves_out("the kernel of min_distance")
ONE_OP = interpreter_runs(op=("min_distance",))
OFFSETS = {"case": SMALL, "of_features": "offset", "of_prototypes": "offset"}


@pytest.mark.parametrize(
    ("marks", "parameters", "reason"),
    [
        ([], {}, "no Triton kernel"),
        ([MODULE], {}, ""),
        ([MODULE], {"case": SMALL, "dtype": torch.float64}, ""),
        ([MODULE], {"case": SMALL, "dtype": torch.bfloat16}, "half types are for a GPU"),
        ([MODULE], {"case": Case(4, 33, 3, 11, 130)}, "a large case"),
        ([MODULE], {"case": Case(5, 8, 1, 31, 3)}, ""),
        ([MODULE], {"case": Case(5, 8, 1, 31, 3), "dtype": torch.float64}, "a large case"),
        ([SLOW_MODULE], {"case": SMALL}, ""),
        ([SLOW_MODULE], {"case": Case(5, 8, 1, 31, 3)}, "a slow case"),
        ([interpreter_leaves_out("hundreds of launches"), MODULE], {}, "hundreds of launches"),
        ([LAYOUTS, MODULE], {**OFFSETS, "metric": "sqeuclidean"}, ""),
        ([LAYOUTS, MODULE], {**OFFSETS, "metric": "cosine"}, "the offsets are those of another case"),
        ([LAYOUTS, SLOW_MODULE], {**OFFSETS, "metric": "sqeuclidean"}, "a slow case"),
        ([interpreter_runs(which=(50,), because="any will do"), MODULE], {"which": 0}, "any will do"),
        ([interpreter_runs(which=(50,), because="any will do"), MODULE], {"which": 50}, ""),
        ([SHARED, MODULE], {}, "the kernel of min_distance"),
        ([interpreter_runs_for_every_op, SHARED, MODULE], {}, ""),
        ([ONE_OP], {"op": "topk_pool"}, "a slow case"),
        ([interpreter_runs(op=("min_distance", "topk_pool")), ONE_OP], {"op": "topk_pool"}, ""),
    ],
)
def test_what_the_marks_of_a_test_mean(
    marks: list[pytest.MarkDecorator], parameters: dict[str, object], reason: str
) -> None:
    assert reason_left_out([decorator.mark for decorator in marks], parameters) == reason


def test_nothing_that_is_marked_gpu_is_left_out() -> None:
    """`make test-gpu` collects these folders together, and the choice for the interpreter sees all tests of a run."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider"]
    paths = [str(tests / "kernels" / "test_interpreted.py"), str(tests / "gpu" / "test_ops.py")]
    done = subprocess.run([*command, *paths], cwd=tests.parent, capture_output=True, text=True, check=False)
    found = done.stdout.splitlines()
    assert sum("[triton" in line or "-triton" in line for line in found) == sum("native" in line for line in found) > 0
