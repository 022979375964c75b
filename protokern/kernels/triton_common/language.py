"""Triton's language for files that are also read without it: those whose tables hold a formula in torch and in Triton.

Importing triton takes its time and settles whether kernels are interpreted, so only the files of kernels import it.
They call what `jit` has decorated to get the function that their kernels use. Imports no triton.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

# Stands for triton.language in a module until one of its functions is asked for.
tl: Any = None


def jit(function: Callable[..., Any]) -> Callable[[], Any]:
    """Decorator of a function in Triton's language: without arguments, what it leaves gives the jitted function.

    The module of `function` imports `tl` from here, and has triton.language under that name from then on.
    """

    @cache
    def jitted() -> Any:
        import triton
        import triton.language

        function.__globals__["tl"] = triton.language
        return triton.jit(function)

    return jitted


def constant(function: Callable[..., Any]) -> Callable[[], Any]:
    """As `jit`, for a Python function of constants that is called while a kernel is compiled."""

    @cache
    def known() -> Any:
        import triton

        return triton.constexpr_function(function)

    return known
