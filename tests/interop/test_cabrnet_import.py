"""What the CaBRNet module says where CaBRNet is missing."""

from __future__ import annotations

import importlib
import sys

import pytest


def test_without_cabrnet_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cabrnet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cabrnet", None)
    monkeypatch.delitem(sys.modules, "protokern.interop.cabrnet", raising=False)
    message = r"^protokern\.interop\.cabrnet: needs CaBRNet 1\.2; .* Run pip install 'protokern\[cabrnet\]'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("protokern.interop.cabrnet")
