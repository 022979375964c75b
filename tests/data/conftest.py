"""A package `datasets` that has what the tests give it."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest


@pytest.fixture
def fake_datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    package: Any = types.ModuleType("datasets")
    package.__version__ = "4.0.0"

    class ImageKind:
        def __init__(self, decode: bool = True) -> None:
            self.decode = decode

    package.Image, package.ClassLabel = ImageKind, type("ClassLabel", (), {})
    monkeypatch.setitem(sys.modules, "datasets", package)
    return package
