"""Finds and loads the C++ library that registers the `protokern_native` ops."""

from __future__ import annotations

from ..errors import BackendUnavailableError


def load() -> None:
    """Load the library once.

    Raises:
        BackendUnavailableError: it was not built.
    """
    raise BackendUnavailableError(
        "backend 'native': the C++ extension is not built. Run 'pip install -e .' (needs a C++ compiler)."
    )


def is_available() -> bool:
    """Whether `load` succeeds."""
    return False
