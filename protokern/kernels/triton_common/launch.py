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
    """A function that launches `kernel`: `launch(grid, *, ..., **options)`.

    Its keywords are the kernel's parameters, all of them. A tensor brings its strides: where `x_stride_b` and others
    follow `x_ptr` in the kernel, they are all strides of that tensor, in order, and not among the keywords. Options of
    the compiler, such as `num_warps`, are keywords too.

    Args:
        kernel: what `triton.jit` returns.

    Raises:
        TypeError: by what is returned, for an argument that is missing or has no name, and for a tensor with more or
            fewer dimensions than the kernel has strides.
    """
    keywords: list[str] = []
    arguments: list[str] = []
    for name in kernel.arg_names:
        tensor = f"{name.partition('_stride_')[0]}_ptr"
        if "_stride_" not in name:
            keywords.append(name)
            arguments.append(name)
        elif arguments[-1] == tensor:
            arguments.append(f"*{tensor}.stride()")
    source = (
        f"def launch(grid, *, {', '.join(keywords)}, **options):\n"
        f"    kernel[grid]({', '.join(arguments)}, **options, **OPTIONS)"
    )
    names: dict[str, Any] = {"kernel": kernel, "OPTIONS": OPTIONS}
    exec(source, names)
    return names["launch"]
