"""Which tests Triton's interpreter runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import interpreted
from .cases import SMALL, Case
from .interpreted import reason_left_out


@pytest.mark.parametrize(
    ("module", "test", "parameters", "reason"),
    [
        ("test_distance_at", "test_values", {}, ""),
        ("test_distance_at", "test_values", {"case": SMALL, "dtype": torch.float64}, ""),
        ("test_distance_at", "test_values", {"case": SMALL, "dtype": torch.bfloat16}, "half types are for a GPU"),
        ("test_distance_at", "test_values", {"case": Case(4, 33, 3, 11, 130)}, "a large case"),
        ("test_distance_at", "test_values", {"case": Case(5, 8, 1, 31, 3)}, ""),
        (
            "test_distance_at",
            "test_values",
            {"case": Case(5, 8, 1, 31, 3), "dtype": torch.float64},
            "a large case",
        ),
        ("test_distance_at", "test_no_tensor_of_all_distances_in_memory", {}, "a large batch"),
        ("test_distance_at", "test_gradcheck", {}, "hundreds of launches"),
        (
            "test_distance_at",
            "test_any_strides",
            {"metric": "sqeuclidean", "case": SMALL, "of_features": "offset", "of_prototypes": "offset"},
            "",
        ),
        (
            "test_distance_at",
            "test_any_strides",
            {"metric": "cosine", "case": SMALL, "of_features": "offset", "of_prototypes": "offset"},
            "the offsets are those of another case",
        ),
        ("test_mean_activation", "test_values", {"case": SMALL}, ""),
        ("test_mean_activation", "test_values", {"case": Case(5, 8, 1, 31, 3)}, "a slow case"),
        ("test_bad_input", "test_strange_memory", {"op": "topk_pool", "metric": "sqeuclidean"}, "a slow case"),
        ("test_bad_input", "test_wrong_shapes", {"op": "topk_pool"}, ""),
        ("test_definition", "test_values", {}, "no Triton kernel"),
    ],
)
def test_a_part_of_the_battery(
    module: str, test: str, parameters: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        interpreted, "MODULES", frozenset({"test_bad_input", "test_distance_at", "test_mean_activation"})
    )
    assert reason_left_out(module, test, parameters) == reason


def test_nothing_that_is_marked_gpu_is_left_out() -> None:
    """`make test-gpu` collects these folders together, and the choice for the interpreter sees all tests of a run."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider"]
    paths = [str(tests / "kernels" / "test_interpreted.py"), str(tests / "gpu" / "test_ops.py")]
    done = subprocess.run([*command, *paths], cwd=tests.parent, capture_output=True, text=True, check=False)
    found = done.stdout.splitlines()
    assert sum("[triton" in line or "-triton" in line for line in found) == sum("native" in line for line in found) > 0
