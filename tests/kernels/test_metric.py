"""Every metric has its row, its formula in Triton's language and its struct in C++, and no name is taken for another.

Values and gradients of every metric on every backend are in contract.py, against the formulas of oracle.py.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from protokern.kernels import dispatch, metric_in_triton, native_library, similarity
from protokern.kernels.mean_activation import metric_in_triton as metric_of_mean
from protokern.kernels.metric import METRIC_TABLE, METRICS

from . import oracle

needs_library = pytest.mark.skipif(not native_library.is_available(), reason="the C++ library is not built")


def in_tritons_language(module: ModuleType) -> list[ast.FunctionDef]:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(one, ast.Name) and one.id == "jit" for one in node.decorator_list)
    ]


def chain(function: ast.FunctionDef, switch: str) -> tuple[set[str], list[ast.stmt]]:
    """The names that the branches on `switch` compare it with, and what stands in the last `else`."""
    (first,) = [node for node in function.body if isinstance(node, ast.If)]
    names: set[str] = set()
    rest: list[ast.stmt] = [first]
    while len(rest) == 1 and isinstance(rest[0], ast.If):
        for node in ast.walk(rest[0].test):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == switch:
                (name,) = node.comparators
                assert isinstance(name, ast.Constant)
                names.add(str(name.value))
        rest = rest[0].orelse
    return names, rest


@pytest.mark.parametrize(
    ("module", "switch", "names"),
    [
        (metric_in_triton, "METRIC", METRICS),
        (metric_of_mean, "METRIC", tuple(name for name, row in METRIC_TABLE.items() if not row.is_product)),
        (similarity, "ACTIVATION", similarity.ACTIVATIONS),
    ],
    ids=["metric", "metric of the mean", "similarity"],
)
def test_every_function_of_triton_knows_all_names_and_no_other(
    module: ModuleType, switch: str, names: tuple[str, ...]
) -> None:
    functions = in_tritons_language(module)
    assert functions
    for function in functions:
        found, last = chain(function, switch)
        assert found == set(names), function.name
        assert len(last) == 1, function.name
        assert ast.unparse(last[0]).startswith("tl.static_assert(False, "), function.name


@pytest.mark.parametrize("name", METRICS)
def test_triton_is_told_what_the_row_says(name: str) -> None:
    pytest.importorskip("triton")
    assert metric_in_triton.triton_is_unit()(name) == METRIC_TABLE[name].is_unit


@needs_library
def test_the_compiled_library_has_the_names_of_the_tables() -> None:
    host = importlib.import_module("protokern._host")
    assert tuple(host.metrics()) == METRICS
    assert tuple(host.activations()) == similarity.ACTIVATIONS


def test_an_unknown_name_is_never_another_metric() -> None:
    x = torch.rand(1, 3, 2, 2)
    p = torch.rand(4, 3)
    for backend in ("reference", "native"):
        if backend == "native" and not native_library.is_available():
            continue
        with pytest.raises((KeyError, RuntimeError), match="manhattan"):
            dispatch.implementation("distance_map", backend)(x, p, "manhattan")


@pytest.mark.parametrize("name", METRICS)
def test_the_bound_of_the_losses_holds(name: str) -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    distances = oracle.distance_map(corners.T[None, :, :, None], corners, name)
    bound = METRIC_TABLE[name].largest(3)
    assert bound is None if METRIC_TABLE[name].is_product else bound >= distances.max()
    assert METRIC_TABLE[name].largest(None) in (None, bound)
