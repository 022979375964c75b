"""`launcher`: arguments by name reach a kernel in its order, tensors with their strides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from protokern.kernels.triton_common.launch import launcher


class Kernel:
    """Takes launches as Triton's kernels do, and remembers them."""

    def __init__(self, *parameters: str) -> None:
        self.arg_names = list(parameters)
        self.launches: list[tuple[object, tuple[object, ...], dict[str, object]]] = []

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *arguments, **options: self.launches.append((grid, arguments, options))


def test_arguments_arrive_in_the_order_of_the_kernel_with_the_strides_of_tensors() -> None:
    kernel = Kernel("x_ptr", "x_stride_b", "x_stride_d", "first", "out_ptr", "out_stride_b", "depth", "BLOCK")
    x, out, first = torch.zeros(5, 3).T, torch.zeros(7), torch.zeros(2, 2)

    launcher(kernel)((4, 2), BLOCK=16, depth=3, out_ptr=out, first=first, x_ptr=x, num_warps=8)

    ((grid, arguments, options),) = kernel.launches
    assert grid == (4, 2)
    assert arguments[0] is x
    assert arguments[1:3] == (1, 3)
    assert arguments[3] is first
    assert arguments[4] is out
    assert arguments[5:] == (1, 3, 16)
    assert options == {"num_warps": 8, "enable_fp_fusion": False}


def test_an_argument_that_is_missing_or_has_no_name_is_an_error() -> None:
    kernel = Kernel("depth", "width")
    with pytest.raises(TypeError, match="launch: must be given width"):
        launcher(kernel)((1,), depth=3)
    with pytest.raises(TypeError, match="positional"):
        launcher(kernel)((1,), 3, 4)
    assert not kernel.launches
