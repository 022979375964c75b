"""The table of the backends: every op on every backend, with the same arguments."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

from protokern.errors import BackendUnavailableError
from protokern.kernels import available_backends, dispatch, native_library
from protokern.kernels.backends import BACKENDS

SEARCHES = ("min_distance", "prototype_pool", "topk_pool", "mean_activation")


def arguments_of(op: str, backend: str) -> list[str]:
    """Names of the arguments, in their order."""
    function = dispatch.implementation(op, backend)
    if backend == "native":
        return [argument.name for argument in function._schema.arguments]  # type: ignore[attr-defined]
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("op", dispatch.IMPLEMENTATIONS)
def test_every_op_has_every_backend(op: str) -> None:
    assert tuple(dispatch.IMPLEMENTATIONS[op]) == BACKENDS


@pytest.mark.parametrize("op", dispatch.IMPLEMENTATIONS)
@pytest.mark.parametrize("compiled", ["native", "triton"])
def test_a_backend_takes_what_the_reference_takes_and_the_precision_of_a_search(op: str, compiled: str) -> None:
    if not available_backends()[compiled].available:
        pytest.skip(f"backend {compiled!r}: {available_backends()[compiled].reason}")
    wanted = arguments_of(op, "reference")
    if op in SEARCHES:
        position = wanted.index("patch_weight") if "patch_weight" in wanted else len(wanted)
        wanted.insert(position, "precision")
    assert arguments_of(op, compiled) == wanted


def test_a_library_that_does_not_load_says_so_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise BackendUnavailableError("backend 'native': is not built")

    dispatch.implementation.cache_clear()
    monkeypatch.setattr(native_library, "load", refuse)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="is not built"):
            dispatch.implementation("min_distance", "native")


def test_a_call_imports_its_own_backend_only() -> None:
    program = (
        "import sys, torch, protokern; "
        "protokern.min_distance(torch.rand(1, 2, 3, 3), torch.rand(4, 2), backend='native'); "
        "sys.exit('protokern.kernels.min_distance.triton_launch' in sys.modules or 'triton' in sys.modules)"
    )
    if not available_backends()["native"].available:
        pytest.skip("backend 'native': is not built")
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_gradients_are_asked_of_the_backend_that_was_named() -> None:
    features, prototypes = torch.rand(1, 2, 3, 3), torch.rand(4, 2)
    patch = torch.zeros(1, 4, dtype=torch.int64)
    inputs = (torch.ones(1, 4), features, prototypes, patch, "sqeuclidean", True, False)
    to_features, to_prototypes = dispatch.gradient("min_distance", inputs, "reference")
    assert to_features.shape == features.shape
    assert to_prototypes.shape == (0,)
