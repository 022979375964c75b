"""Where the Triton kernels can run, what is said where they cannot, and what a call takes then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from protokern import available_backends, min_distance
from protokern.errors import BackendUnavailableError
from protokern.kernels import BackendStatus
from protokern.kernels.backends import choose_backend
from protokern.kernels.triton_common import availability

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    remembered = (availability._package_problem, availability._cuda_devices_problem, availability._cuda_problem)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend devices of these compute capabilities, with triton installed."""

    def pretend(*capabilities: tuple[int, int], triton: str = "3.6.0") -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(availability, "version", lambda package: triton)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Pretended {index}")

    return pretend


def test_a_device_that_is_new_enough(on_cuda: Callable[..., None]) -> None:
    on_cuda((7, 5))
    assert available_backends()["triton"] == BackendStatus(True, ("cuda",), "")
    assert choose_backend("triton", CUDA, torch.float32, "tf32") == ("triton", "tf32")


def test_auto_prefers_it_on_cuda(on_cuda: Callable[..., None]) -> None:
    on_cuda((9, 0))
    assert choose_backend("auto", CUDA, torch.bfloat16, None) == ("triton", "bf16")
    assert choose_backend("auto", CUDA, torch.float64, None) == ("triton", "fp32")
    assert choose_backend("auto", torch.device("cpu"), torch.float32, None).backend != "triton"


def test_a_device_that_is_too_old(on_cuda: Callable[..., None]) -> None:
    on_cuda((7, 0))
    reason = "Pretended 0 has compute capability 7.0; 7.5 or newer is needed. Use backend='auto'."
    assert available_backends()["triton"] == BackendStatus(False, ("cuda",), reason)
    assert choose_backend("auto", CUDA, torch.float32, None).backend != "triton"
    with pytest.raises(BackendUnavailableError, match=r"^backend 'triton': Pretended 0 has compute capability 7\.0; "):
        choose_backend("triton", CUDA, torch.float32, None)


def test_of_two_devices_the_one_that_is_new_enough(on_cuda: Callable[..., None]) -> None:
    on_cuda((6, 1), (8, 6))
    assert available_backends()["triton"].available
    assert choose_backend("auto", torch.device("cuda", 1), torch.float32, None).backend == "triton"
    assert choose_backend("auto", CUDA, torch.float32, None).backend != "triton"
    with pytest.raises(BackendUnavailableError, match=r"^backend 'triton': Pretended 0 has compute capability 6\.1; "):
        choose_backend("triton", CUDA, torch.float32, None)


def test_no_device(on_cuda: Callable[..., None]) -> None:
    on_cuda()
    reason = "no CUDA device is present. Use backend='auto'."
    assert available_backends()["triton"] == BackendStatus(False, ("cuda",), reason)
    with pytest.raises(BackendUnavailableError, match=r"^backend 'triton': no CUDA device is present\. "):
        min_distance(torch.rand(1, 2, 3, 3), torch.rand(4, 2), backend="triton")


def test_another_make_of_device(on_cuda: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda((9, 4))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    reason = "the kernels are made for NVIDIA devices; this torch is built for ROCm. Use backend='auto'."
    assert available_backends()["triton"].reason == reason


def test_a_tensor_elsewhere_than_on_cuda(on_cuda: Callable[..., None]) -> None:
    on_cuda((9, 0))
    message = r"^backend 'triton': runs on cuda only; the tensors are on cpu\. Move them, or use backend='auto'\.$"
    with pytest.raises(BackendUnavailableError, match=message):
        min_distance(torch.rand(1, 2, 3, 3), torch.rand(4, 2), backend="triton")


def test_not_installed(on_cuda: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda((9, 0))

    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(availability, "version", missing)
    reason = "triton is not installed. Run 'pip install triton>=3.6', or use backend='auto'."
    assert available_backends()["triton"].reason == reason
    assert choose_backend("auto", CUDA, torch.float32, None).backend != "triton"


@pytest.mark.parametrize(("found", "is_available"), [("3.5.1", False), ("3.6.0", True), ("3.10.0+git1", True)])
def test_version(found: str, is_available: bool, on_cuda: Callable[..., None]) -> None:
    on_cuda((9, 0), triton=found)
    status = available_backends()["triton"]
    assert status.available == is_available
    if not is_available:
        wanted = f"triton {found} is older than 3.6. Run 'pip install triton>=3.6', or use backend='auto'."
        assert status.reason == wanted


def test_interpreted_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(availability, "version", lambda package: "3.6.0")
    assert available_backends()["triton"] == BackendStatus(True, ("cpu",), "")
    cpu = torch.device("cpu")
    assert choose_backend("triton", cpu, torch.float32, "tf32") == ("triton", "tf32")
    assert choose_backend("auto", cpu, torch.float32, None).backend != "triton"
    # Its products of bfloat16 numbers are wrong.
    assert choose_backend("triton", cpu, torch.bfloat16, None) == ("triton", "tf32")
    assert choose_backend("triton", cpu, torch.float32, "bf16") == ("triton", "tf32")


def test_the_package_and_the_choice_import_no_triton() -> None:
    program = (
        "import sys, torch, protokern.kernels as kernels; kernels.available_backends();"
        "kernels.min_distance(torch.rand(1, 2, 3, 3), torch.rand(4, 2)); sys.exit('triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
