"""Launches of Triton kernels with every argument by its name. Imports no triton.

Triton takes keywords too, but slowly. The functions that `launcher` makes are as quick as a launch by position, as
docs/decisions/triton-parameters.md shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# For the compiler, at every launch: fuse no multiply-add that is not written as one. A fused x * a - p * b would not be
# 0 if both products are equal. The default of Triton changes with its version.
OPTIONS = {"enable_fp_fusion": False}


def launcher(kernel: Any) -> Callable[..., None]:
    """A function that launches `kernel`: `launch(grid, **arguments)`.

    Its keywords are the kernel's parameters, all of them. A tensor brings its strides: where `x_stride_b` and others
    follow `x_ptr` in the kernel, they are all strides of that tensor, in order, and not among the keywords. Options of
    the compiler, such as `num_warps`, are keywords too.

    Args:
        kernel: what `triton.jit` returns.

    Raises:
        TypeError: by what is returned, for a parameter that is missing; by Triton, for a keyword that is neither a
            parameter nor an option, and for a tensor with more or fewer dimensions than the kernel has strides.
    """
    parameters: list[tuple[str, bool]] = []  # name, and whether its strides follow
    for name in kernel.arg_names:
        tensor = f"{name.partition('_stride_')[0]}_ptr"
        if "_stride_" not in name:
            parameters.append((name, False))
        elif parameters[-1][0] == tensor:
            parameters[-1] = (tensor, True)

    def launch(grid: tuple[int, ...], **arguments: Any) -> None:
        values: list[Any] = []
        take = arguments.pop
        for name, has_strides in parameters:
            try:
                value = take(name)
            except KeyError:
                raise TypeError(f"launch: must be given {name}. Name every parameter of the kernel.") from None
            values.append(value)
            if has_strides:
                values += value.stride()
        kernel[grid](*values, **arguments, **OPTIONS)

    return launch
