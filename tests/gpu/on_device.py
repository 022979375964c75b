"""Runs the contract battery, which is written for tensors on the CPU, on a CUDA device.

Inputs travel to the device with their strides, results and gradients travel back; the comparison stays on the CPU.
"""

# mypy: disable-error-code=misc
# The classes here are mixed into contracts, whose methods they call and replace.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern import available_backends, distance_at, distance_map
from tests.kernels import nearest_contract
from tests.kernels.cases import Case


class _ToDevice(torch.autograd.Function):
    """The same tensor on the device, in the same layout: `Tensor.cuda` would pack gaps and repeats."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        on_device = torch.tensor((), dtype=tensor.dtype, device="cuda")
        storage = tensor.detach().untyped_storage().cuda()
        return on_device.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].cpu()


def to_device(tensor: Tensor) -> Tensor:
    return _ToDevice.apply(tensor) if tensor.requires_grad else _ToDevice.forward(None, tensor)


def from_device(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.cpu() for tensor in result)


def skip_unless_on_cuda(backend: str) -> None:
    status = available_backends()[backend]
    if not status.available or "cuda" not in status.devices:
        pytest.skip(f"backend {backend!r}: {status.reason or 'does not run on cuda'}")


class OnDevice:
    """First base of a test class whose second is a contract: the same tests, with the op on the device."""

    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        return from_device(super().run(to_device(features), to_device(prototypes), metric, backend))


class NearestOnDevice(OnDevice):
    """The same for `NearestContract`; what it asks of memory is asked of the device's."""

    @pytest.fixture(autouse=True)
    def other_ops_on_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def moved(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *tensors, **options: op(*(to_device(tensor) for tensor in tensors), **options).cpu()

        monkeypatch.setattr(nearest_contract, "distance_at", moved(distance_at))
        monkeypatch.setattr(nearest_contract, "distance_map", moved(distance_map))

    def nearest(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, Tensor]:
        return from_device(super().nearest(to_device(features), to_device(prototypes), metric, backend))

    @pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
    @pytest.mark.parametrize("patch_size", [None, (2, 2)])
    def test_no_tensor_of_all_distances_in_memory(
        self, patch_size: tuple[int, int] | None, metric: str, backend: str
    ) -> None:
        case = Case(64, 6, 28, 28, 1024, patch_size)
        features, prototypes = (tensor.cuda().requires_grad_() for tensor in case.inputs())
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value, _ = super().nearest(features, prototypes, metric, backend)
        torch.autograd.grad(value.sum(), (features, prototypes))
        used = torch.cuda.max_memory_allocated() - before
        assert used < 0.25 * 4 * case.batch * case.prototypes * case.height * case.width

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_offsets_beyond_32_bits(self, dtype: torch.dtype, backend: str) -> None:
        far = 2**31 + 5
        values, prototypes = (tensor.cuda() for tensor in Case(2, 3, 4, 5, 6).inputs(dtype))
        # Of the memory between the two images nothing is touched.
        storage = torch.tensor((), dtype=dtype, device="cuda").set_(
            torch.UntypedStorage((far + 1000) * values.element_size(), device="cuda")
        )
        features = storage.as_strided((2, 3, 4, 5), (far, 20, 5, 1))
        features.copy_(values)
        wanted = super().nearest(values, prototypes, "sqeuclidean", backend)
        got = super().nearest(features, prototypes, "sqeuclidean", backend)
        assert torch.equal(wanted[0], got[0])
        assert torch.equal(wanted[1], got[1])

    @pytest.mark.parametrize("setting", ["high", "medium"])
    def test_reduced_matmul_precision_of_the_process_costs_its_rounding_at_most(
        self, setting: str, backend: str
    ) -> None:
        """On a device it changes the search; the value is that of the chosen patch all the same, and it is near."""
        features, prototypes = (torch.sigmoid(tensor) for tensor in Case(2, 128, 12, 12, 100).inputs())
        before = torch.get_float32_matmul_precision()
        exact, _ = self.nearest(features, prototypes, "sqeuclidean", backend)
        torch.set_float32_matmul_precision(setting)
        try:
            value, patch = self.nearest(features, prototypes, "sqeuclidean", backend)
        finally:
            torch.set_float32_matmul_precision(before)
        at_patch = distance_at(features, prototypes, patch, backend="reference")
        torch.testing.assert_close(value, at_patch, rtol=1e-5, atol=1e-6)
        assert (value <= exact * (1 + (2**-9 if setting == "high" else 2**-6))).all()
