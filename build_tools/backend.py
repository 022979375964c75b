"""The build backend: setuptools, and torch among the requirements of a build where the environment has none yet.

The C++ ops need torch's headers. An environment that has torch lends its own; only where there is none does an
isolated build ask for one, which pip then keeps in its cache for the installation itself. `PROTOKERN_BUILD=none` asks
for nothing.
"""

from __future__ import annotations

import os
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from torch_package import find_torch, has_compiler

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What an isolated build of a wheel installs first."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What an isolated build in place installs first."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch()]


def _torch() -> list[str]:
    wanted = os.environ.get("PROTOKERN_BUILD", "auto") != "none" and has_compiler() and find_torch() is None
    return ["torch>=2.11"] if wanted else []
