"""Finding, loading and describing the C++ library, also where something is wrong with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from protokern import min_distance
from protokern.errors import BackendUnavailableError
from protokern.kernels import native_library

needs_library = pytest.mark.skipif(not native_library.is_available(), reason="the C++ library is not built")

# Prints what one instruction set finds; PROTOKERN_ISA is read once per process.
SEARCH = """
import json, torch
from protokern import min_distance
from protokern.kernels.native_library import build_info
torch.manual_seed(0)
features = torch.rand(3, 40, 6, 7)
prototypes = torch.cat([torch.rand(50, 40), features[1, :, :3, 2].t(), features[2, :, 5, 1:2].t() + 1e-4])
value, patch = min_distance(features, prototypes, backend="native")
print(json.dumps([build_info().instruction_set, value.tolist(), patch.tolist()]))
"""


def run_with_isa(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PROTOKERN_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was learnt about the library is forgotten before and after the test."""
    caches = (
        native_library._load_library,
        native_library._load_cuda_library,
        native_library._isa_problem,
        native_library._cpu_searches_bfloat16,
    )
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@needs_library
def test_loading_twice_is_loading_once() -> None:
    native_library.load()
    native_library.load()
    assert native_library.is_available()
    assert native_library.unavailable_reason() == ""


@needs_library
def test_build_info_tells_what_is_in_use() -> None:
    info = native_library.build_info()
    assert info.library == native_library.LIBRARY
    assert info.compiled[-1] == "base"
    assert set(info.supported) <= set(info.compiled)
    unasked = info.supported[0]
    if unasked == "avx512bf16" and "AuthenticAMD" not in Path("/proc/cpuinfo").read_text():
        unasked = info.supported[1]  # its products are slow there: it runs only when it is named
    assert info.instruction_set == (info.override or unasked)
    assert info.compiler
    assert info.problem == ""


@pytest.mark.usefixtures("forgetful")
def test_a_library_that_was_not_built_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "missing.so")
    assert not native_library.is_available()
    with pytest.raises(BackendUnavailableError, match=r"^backend 'native': the C\+\+ library is not built\. Run 'pip"):
        native_library.load()
    info = native_library.build_info()
    assert info.library is None
    assert info.instruction_set is None
    assert info.problem.startswith("the C++ library is not built")


@pytest.mark.usefixtures("forgetful")
def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native_library, "LIBRARY", broken)
    assert not native_library.is_available()
    with pytest.raises(BackendUnavailableError, match=r"does not load with torch .*\(.*broken\.so.*\)\. Run 'pip"):
        native_library.load()


@needs_library
@pytest.mark.usefixtures("forgetful")
def test_a_cuda_library_that_cannot_be_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA. Install a torch with CUDA" in native_library.unavailable_reason("cuda")
    native_library._load_cuda_library.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(native_library, "CUDA_LIBRARY", tmp_path / "missing.so")
    assert native_library.build_info().cuda_library is None
    assert native_library.build_info().cuda_problem.startswith("the CUDA library is not built. Run 'PROTOKERN_BUILD=")
    native_library._load_cuda_library.cache_clear()
    (tmp_path / "missing.so").write_bytes(b"not a library")
    assert not native_library.is_available("cuda")
    with pytest.raises(BackendUnavailableError, match=r"^backend 'native': the CUDA library does not load with torch"):
        native_library.load("cuda")


@needs_library
@pytest.mark.skipif(not native_library.CUDA_LIBRARY.is_file(), reason="the CUDA library is not built")
def test_the_cuda_library_loads_without_a_cuda_device_and_has_every_op() -> None:
    native_library.load("cuda")
    assert native_library.build_info().cuda_problem == ""
    ops = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("protokern_native::")]
    on_cpu, on_cuda = (
        {name for name in ops if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)} for key in ("CPU", "CUDA")
    )
    assert on_cpu
    assert on_cuda == on_cpu


@needs_library
def test_without_the_module_of_facts_the_ops_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "protokern._host", None)
    info = native_library.build_info()
    assert (info.compiled, info.supported, info.compiler) == ((), (), None)
    assert info.instruction_set is not None
    assert "the ops run without it" in info.problem
    assert min_distance(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2), backend="native").value.item() == 0


@needs_library
def test_an_instruction_set_that_cannot_run_is_refused_by_every_call() -> None:
    code = "import torch, protokern; protokern.min_distance(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1), backend='auto')"
    result = run_with_isa("sse9", code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert (
        "BackendUnavailableError: backend 'native': PROTOKERN_ISA: must be an instruction set that this build" in last
    )
    assert "base" in last
    assert last.endswith("got 'sse9'. Unset it to take the fastest.")


@needs_library
@pytest.mark.parametrize("isa", native_library.build_info().supported)
def test_every_instruction_set_finds_the_same_patches(isa: str) -> None:
    torch.manual_seed(0)
    features = torch.rand(3, 40, 6, 7)
    prototypes = torch.cat([torch.rand(50, 40), features[1, :, :3, 2].t(), features[2, :, 5, 1:2].t() + 1e-4])
    wanted = min_distance(features.double(), prototypes.double(), backend="reference")
    result = run_with_isa(isa, SEARCH)
    assert result.returncode == 0, result.stderr
    used, value, patch = json.loads(result.stdout)
    assert used == isa
    assert patch == wanted.patch.tolist()
    torch.testing.assert_close(torch.tensor(value), wanted.value.float(), rtol=1e-5, atol=1e-12)
    assert all(value[1][50 + i] == 0 for i in range(3))


# What a search of rounded values finds, and whether this instruction set has one.
ROUNDED_SEARCH = """
import json, torch
from protokern import distance_at, min_distance
from protokern.kernels import native_library
torch.manual_seed(0)
features = torch.rand(3, 40, 6, 7)
features[:, :, 3:] = features[:, :, :3]
copies = features[1, :, :3, 2].t().contiguous()
results = {"precisions": native_library.precisions("cpu")}
for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
    for metric in ("sqeuclidean", "cosine"):
        x, p = features.to(dtype), torch.cat([torch.rand(50, 40), copies]).to(dtype)
        if "bf16" not in results["precisions"]:
            continue
        value, patch = min_distance(x, p, metric=metric, precision="bf16", backend="native")
        unnamed = min_distance(x, p, metric=metric, backend="native")
        exact = min_distance(x.double(), p.double(), metric=metric, backend="reference")
        again = distance_at(x, p, patch, metric=metric, backend="native")
        results[name + " " + metric] = {
            "value_is_the_distance": torch.equal(value, again),
            "copies": value[1, 50:].tolist(),
            "first_of_equals": int(patch.max()) < 21,
            "excess": float((value.double() - exact.value).max()),
            "same_patches": torch.equal(patch, exact.patch),
            "is_the_default": torch.equal(patch, unnamed.patch),
        }
print(json.dumps(results))
"""


@needs_library
@pytest.mark.parametrize("isa", native_library.build_info().supported)
def test_a_search_of_rounded_values_gives_exact_distances(isa: str) -> None:
    result = run_with_isa(isa, ROUNDED_SEARCH)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    has_it = isa in ("amx", "avx512bf16")
    assert found.pop("precisions") == (["fp32", "bf16"] if has_it else ["fp32"])
    assert len(found) == (4 if has_it else 0)
    for name, facts in found.items():
        assert facts["value_is_the_distance"], name
        assert facts["copies"] == [0, 0, 0], name
        assert facts["first_of_equals"], name
        assert -1e-6 < facts["excess"] < 0.05, name
        if name.startswith("bfloat16"):
            # The products of such values are exact: nothing is lost, and this search is what they get unasked.
            assert facts["same_patches"], name
            assert facts["is_the_default"], name


@needs_library
def test_a_precision_that_the_instruction_set_lacks_is_refused_by_the_op_too() -> None:
    code = (
        "import torch, protokern; from protokern.kernels import native_library; native_library.load(); "
        "torch.ops.protokern_native.min_distance(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1), 'sqeuclidean', 'bf16')"
    )
    result = run_with_isa("base", code)
    assert result.returncode == 1
    message = "precision: must be 'fp32' on the CPU with instruction set base; got 'bf16'."
    assert message in result.stderr


# Features (2, 3, 4, 5) and prototypes (7, 3): 20 positions. What else an op is given is wrong.
REFUSED = {
    "patch of another shape": (
        lambda ops, x, p: ops.distance_at(x, p, torch.zeros(2, 6, dtype=torch.int64), "sqeuclidean"),
        "patch: must have shape (2, 7), the device of features and dtype int64.",
    ),
    "patch of another dtype": (
        lambda ops, x, p: ops.distance_at(x, p, torch.zeros(2, 7), "sqeuclidean"),
        "patch: must have shape (2, 7), the device of features and dtype int64.",
    ),
    "patch outside the grid": (
        lambda ops, x, p: ops.distance_at(x, p, torch.full((2, 7), 20), "sqeuclidean"),
        "patch: must be in [0, 20); got 20.",
    ),
    "gradient outside the grid": (
        lambda ops, x, p: ops.min_distance_backward(
            torch.zeros(2, 7), x, p, torch.full((2, 7), -1), "sqeuclidean", True, True
        ),
        "patch: must be in [0, 20); got -1.",
    ),
    "gradient of another shape": (
        lambda ops, x, p: ops.min_distance_backward(
            torch.zeros(7, 2), x, p, torch.zeros(2, 7, dtype=torch.int64), "sqeuclidean", True, True
        ),
        "grad_value: must have shape (2, 7), the device of features and the dtype of the distances.",
    ),
    "gradient of another dtype": (
        lambda ops, x, p: ops.mean_activation_backward(
            torch.zeros(2, 7).double(), x, p, "sqeuclidean", "log", 1e-4, True, True
        ),
        "grad: must have shape (2, 7), the device of features and the dtype of the distances.",
    ),
    "more patches than there are": (
        lambda ops, x, p: ops.topk_distance(x, p, 21, "sqeuclidean", "fp32"),
        "k: must be from 1 to 20; got 21.",
    ),
    "precision of another device": (
        lambda ops, x, p: ops.mean_activation(x, p, "sqeuclidean", "log", 1e-4, "tf32"),
        "precision: must be 'fp32' or 'bf16' on the CPU; got 'tf32'.",
    ),
}


@needs_library
@pytest.mark.parametrize("case", REFUSED)
def test_called_without_python_the_ops_refuse_what_would_read_outside_a_tensor(case: str) -> None:
    call, message = REFUSED[case]
    native_library.load()
    with pytest.raises(RuntimeError, match=re.escape(message)):
        call(torch.ops.protokern_native, torch.zeros(2, 3, 4, 5), torch.zeros(7, 3))
