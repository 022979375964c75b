"""Which tests of the battery Triton's interpreter runs, by marks at the tests. It takes milliseconds per program.

A module whose ops have Triton kernels has the mark `interpreter_runs()`. A mark at a test or a class adds to that of
its module, or replaces what it says of the same parameter.

Left out is what the interpreter cannot tell: its products of bfloat16 numbers are wrong, its TF32 is float32, and its
minima treat NaN in their own way. Those need a GPU, or the rounding simulated on the CPU (rounding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
import torch

from .cases import EMPTY_CASES, SMALL, SMALL_PATCHES, Case

# One of everything: a single number, primes beyond one tile in every direction, a grid of one row, larger patches.
CASES = (
    Case(1, 1, 1, 1, 1),
    SMALL,
    Case(2, 17, 5, 13, 49),
    Case(5, 8, 1, 31, 3),
    SMALL_PATCHES,
    Case(1, 4, 3, 3, 5, (3, 3)),
    Case(2, 5, 4, 3, 7, (1, 1)),
    *EMPTY_CASES,
)
# Float64 shares the masks and offsets of float32; it runs where a case is cheap.
CASES_IN_FLOAT64 = (SMALL, SMALL_PATCHES)
# For kernels that take seconds per case: they share loads and offsets with the others.
CASES_OF_SLOW_KERNELS = (SMALL, SMALL_PATCHES, Case(2, 17, 5, 13, 49), *EMPTY_CASES)
# For the weights of the patches, which tests/kernels/triton tries on every path of the kernels.
CASES_WITH_WEIGHTS = (SMALL, SMALL_PATCHES, *EMPTY_CASES)
# Ops whose kernels are quick, and those that search; the other ops use the kernel of one of these.
QUICK_OPS = ("min_distance", "prototype_pool", "distance_map", "distance_at")
SEARCHING_OPS = ("min_distance", "topk_pool")

Condition = Callable[[Mapping[str, object]], bool]


def interpreter_runs(
    *, because: str = "", when: Condition | None = None, **values: tuple[object, ...]
) -> pytest.MarkDecorator:
    """The interpreter runs the marked tests, of each parameter only the values given, and why they are enough."""
    return pytest.mark.interpreted(values=values, because=because, when=when)


def interpreter_leaves_out(reason: str) -> pytest.MarkDecorator:
    """The interpreter leaves the marked tests out."""
    return pytest.mark.interpreted(out=reason)


# A test of the contract that runs even where its class is left out, because the class shares another op's kernel.
interpreter_runs_for_every_op = pytest.mark.interpreted(out="")


def is_new_layout(parameters: Mapping[str, object]) -> bool:
    """Every pair of layouts for one metric and patches of one cell, one pair for larger patches."""
    if parameters["case"] == SMALL:
        return parameters.get("metric", "sqeuclidean") == "sqeuclidean"
    pair = tuple(parameters.get(name) for name in ("of_features", "of_prototypes", "metric"))
    return pair == ("channels_last", "transposed", "cosine")


def reason_left_out(marks: Iterable[pytest.Mark], parameters: Mapping[str, object]) -> str:
    """Why the interpreter does not run a test; empty if it does.

    Args:
        marks: its marks `interpreted`, those of the test before those of its class and its module.
        parameters: of the test.
    """
    marks = list(marks)
    if not marks:
        return "no Triton kernel"
    out = next((mark.kwargs["out"] for mark in marks if "out" in mark.kwargs), "")
    if out:
        return str(out)
    allowed: dict[str, tuple[tuple[object, ...], str]] = {}
    for mark in marks:
        when = mark.kwargs.get("when")
        if when is not None and not when(parameters):
            return str(mark.kwargs["because"])
        for name, values in mark.kwargs.get("values", {}).items():
            allowed.setdefault(name, (values, mark.kwargs["because"]))
    for name, (values, because) in allowed.items():
        if name in parameters and parameters[name] not in values:
            return because or "a slow case"
    dtype = parameters.get("dtype", torch.float32)
    if dtype not in (torch.float32, torch.float64):
        return "half types are for a GPU"
    if parameters.get("case", SMALL) not in (CASES if dtype == torch.float32 else CASES_IN_FLOAT64):
        return "a large case"
    return ""
