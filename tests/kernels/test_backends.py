"""Which backends exist, which one a call takes, and what a call that cannot be served says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from protokern import (
    available_backends,
    distance_at,
    min_distance,
    prototype_pool,
)
from protokern.errors import BackendUnavailableError
from protokern.kernels import BackendStatus, backends, native_library
from protokern.kernels.backends import choose_backend
from tests.conftest import NATIVE_IS_REQUIRED

from . import oracle
from .cases import CASES, SMALL, TOLERANCE, Case
from .contract import METRICS
from .public_ops import OPS, outputs


@pytest.fixture(params=OPS)
def op(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return OPS[request.param]


def test_every_backend_is_listed_with_its_reason() -> None:
    backends = available_backends()
    assert list(backends) == ["reference", "native", "triton"]
    assert backends["reference"] == BackendStatus(available=True, devices=("any",), reason="")
    for status in backends.values():
        assert status.available == (status.reason == "")


@pytest.mark.skipif(not NATIVE_IS_REQUIRED, reason="native is built on Linux x86-64, unless PROTOKERN_BUILD=none")
def test_native_is_built_where_it_should_be() -> None:
    devices = ("cpu", "cuda") if native_library.is_available("cuda") else ("cpu",)
    assert available_backends()["native"] == BackendStatus(available=True, devices=devices, reason="")


def test_native_runs_on_cuda_tensors_where_the_cuda_library_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_load_cuda_library", lambda: "")
    assert available_backends()["native"].devices == ("cpu", "cuda")
    assert choose_backend("native", torch.device("cuda"), torch.float32, "bf16") == ("native", "bf16")
    monkeypatch.setattr(backends.triton_availability, "device_types", lambda: ())
    assert choose_backend("auto", torch.device("cuda"), torch.float16, None) == ("native", "tf32")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_backends_agree(case: Case, metric: str, backend: str) -> None:
    features, prototypes = case.inputs()
    settings = {"activation": oracle.SIMILARITY[metric], "metric": metric}
    wanted = prototype_pool(features, prototypes, backend="reference", **settings)
    got = prototype_pool(features, prototypes, backend=backend, **settings)
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(got.min_distance, wanted.min_distance, rtol=rtol, atol=atol)
    torch.testing.assert_close(got.activation, wanted.activation, rtol=rtol, atol=1e-4)
    at_patch = distance_at(features, prototypes, got.patch, metric=metric, backend="reference")
    torch.testing.assert_close(at_patch, wanted.min_distance, rtol=rtol, atol=atol)


def test_auto_takes_native_on_the_cpu_where_it_is_built() -> None:
    features, prototypes = Case(2, 128, 7, 7, 64).inputs()
    named = "native" if native_library.is_available() else "reference"
    wanted = min_distance(features, prototypes, backend=named)
    got = min_distance(features, prototypes)
    assert torch.equal(wanted.value, got.value)
    assert torch.equal(wanted.patch, got.patch)


def test_auto_takes_reference_where_native_is_missing(op: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    features, prototypes = SMALL.inputs()
    wanted = op(features, prototypes, backend="reference")
    pretend_native_is_missing(monkeypatch)
    got = op(features, prototypes)
    for one, other in zip(outputs(wanted), outputs(got), strict=True):
        assert torch.equal(one, other)


def test_native_that_is_missing_is_refused_with_the_reason(
    op: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_native_is_missing(monkeypatch)
    assert available_backends()["native"] == BackendStatus(False, ("cpu",), "the test took it away. Put it back.")
    with pytest.raises(BackendUnavailableError, match=r"^backend 'native': the test took it away\. Put it back\.$"):
        op(*SMALL.inputs(), backend="native")


@pytest.mark.parametrize(
    "op_with_precision", [OPS[name] for name in ("min_distance", "prototype_pool", "mean_activation", "topk_pool")]
)
class TestPrecision:
    def test_fp32_is_what_the_cpu_does_anyway(self, op_with_precision: Callable[..., Any], backend: str) -> None:
        features, prototypes = SMALL.inputs()
        named = op_with_precision(features, prototypes, precision="fp32", backend=backend)
        unnamed = op_with_precision(features, prototypes, backend=backend)
        for one, other in zip(outputs(named), outputs(unnamed), strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("precision", ["tf32", "bf16"])
    def test_a_precision_the_backend_lacks_becomes_the_next_more_precise_one(
        self, op_with_precision: Callable[..., Any], precision: str, backend: str
    ) -> None:
        if precision in backends.precisions(backend, "cpu"):
            pytest.skip("this backend has it here")
        features, prototypes = SMALL.inputs()
        wanted = op_with_precision(features, prototypes, precision="fp32", backend=backend)
        got = op_with_precision(features, prototypes, precision=precision, backend=backend)
        for one, other in zip(outputs(wanted), outputs(got), strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("said", ["highest", "high", "medium"])
    def test_torch_may_allow_less_than_the_backend_has(
        self, op_with_precision: Callable[..., Any], said: str, backend: str
    ) -> None:
        features, prototypes = SMALL.inputs()
        has_it = said == "medium" and backend == "native" and "bf16" in backends.precisions("native", "cpu")
        precision = "bf16" if has_it else "fp32"
        wanted = op_with_precision(features, prototypes, precision=precision, backend=backend)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(said)
        try:
            got = op_with_precision(features, prototypes, backend=backend)
        finally:
            torch.set_float32_matmul_precision(before)
        for one, other in zip(wanted, got, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)

    def test_unknown_precision(self, op_with_precision: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match=r"precision: must be None or one of fp32, tf32, bf16; got 'fp16'\."):
            op_with_precision(*SMALL.inputs(), precision="fp16")


@pytest.mark.parametrize("backend", ["native"], indirect=True)
def test_native_elsewhere_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_load_cuda_library", lambda: "the test took it away. Put it back.")
    message = r"^backend 'native': the test took it away\. Put it back\.$"
    with pytest.raises(BackendUnavailableError, match=message):
        choose_backend(backend, torch.device("cuda"), torch.float32, None)
    message = r"^backend 'native': runs on cpu only; the tensors are on meta\. Move them, or use backend='auto'\.$"
    with pytest.raises(BackendUnavailableError, match=message):
        choose_backend(backend, torch.device("meta"), torch.float32, None)


class TestChoiceOfPrecision:
    """What a backend with every precision would be asked for; the CPU of this test machine need not have them."""

    @pytest.fixture(autouse=True)
    def every_precision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "precisions", lambda backend, device_type: ("fp32", "tf32", "bf16"))

    @pytest.mark.parametrize(
        ("dtype", "said", "wanted"),
        [
            (torch.float32, "highest", "fp32"),
            (torch.float32, "high", "tf32"),
            (torch.float32, "medium", "bf16"),
            (torch.float64, "medium", "fp32"),
            (torch.float16, "highest", "tf32"),
            (torch.bfloat16, "highest", "bf16"),
        ],
    )
    def test_follows_the_dtype_and_torch(
        self, dtype: torch.dtype, said: str, wanted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: said)
        assert choose_backend("reference", torch.device("cpu"), dtype, None) == ("reference", wanted)

    def test_a_torch_backend_with_a_precision_of_its_own_is_followed(self) -> None:
        mkldnn: Any = torch.backends.mkldnn
        before = mkldnn.matmul.fp32_precision
        mkldnn.matmul.fp32_precision = "bf16"
        try:
            choice = choose_backend("reference", torch.device("cpu"), torch.float32, None)
        finally:
            mkldnn.matmul.fp32_precision = before
        assert choice.precision == "bf16"

    def test_float64_is_searched_in_float64_only(self) -> None:
        choice = choose_backend("reference", torch.device("cpu"), torch.float64, "bf16")
        assert choice.precision == "fp32"

    @pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
    def test_what_the_backend_has_is_taken(self, precision: str) -> None:
        assert choose_backend("reference", torch.device("cpu"), torch.float32, precision).precision == precision

    @pytest.mark.parametrize(
        ("dtype", "asked", "offered", "wanted"),
        [
            (torch.float32, "tf32", ("fp32", "bf16"), "fp32"),
            (torch.float32, "bf16", ("fp32", "tf32"), "tf32"),
            (torch.float32, "bf16", ("fp32",), "fp32"),
            (torch.float16, None, ("fp32", "bf16"), "fp32"),
        ],
    )
    def test_what_the_backend_lacks_becomes_more_precise(
        self,
        dtype: torch.dtype,
        asked: str | None,
        offered: tuple[str, ...],
        wanted: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(backends, "precisions", lambda backend, device_type: offered)
        assert choose_backend("reference", torch.device("cpu"), dtype, asked).precision == wanted


def pretend_native_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device_type: str = "cpu") -> None:
        raise BackendUnavailableError("backend 'native': the test took it away. Put it back.")

    monkeypatch.setattr(native_library, "load", load)
    monkeypatch.setattr(native_library, "is_available", lambda device_type="cpu": False)
