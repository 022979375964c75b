"""What a build asks for, refuses and packs. Wheels themselves are built by hand and by CI, for that takes minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("setuptools", minversion="77", reason="the build backend needs setuptools")


def setup(*arguments: str, build: str = "none") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PROTOKERN_BUILD": build}
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "build_tools"))
    monkeypatch.delenv("PROTOKERN_BUILD", raising=False)
    monkeypatch.chdir(ROOT)
    return __import__("backend")


def test_the_build_uses_the_torch_of_the_environment(backend: ModuleType) -> None:
    assert backend.find_torch() == Path(torch.__file__).parent


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
def test_torch_is_asked_for_only_where_it_is_missing(
    backend: ModuleType, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "has_compiler", lambda: True)
    monkeypatch.setattr(backend.build_meta, hook, lambda settings: [])
    requires = getattr(backend, hook)
    assert requires() == []
    monkeypatch.setattr(backend, "find_torch", lambda: None)
    assert requires() == ["torch>=2.11"]
    monkeypatch.setattr(backend, "has_compiler", lambda: False)
    assert requires() == []
    monkeypatch.setattr(backend, "has_compiler", lambda: True)
    monkeypatch.setenv("PROTOKERN_BUILD", "none")
    assert requires() == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("fast", "PROTOKERN_BUILD: must be one of auto, cpu, cuda, none; got 'fast'."),
        ("cuda", "PROTOKERN_BUILD=cuda: this version has no CUDA library yet. Use auto, cpu or none."),
    ],
)
def test_a_build_that_cannot_be_is_refused(build: str, message: str) -> None:
    result = setup("--version", build=build)
    assert result.returncode == 1
    assert result.stderr.strip() == message


def test_the_source_distribution_holds_what_a_build_needs(tmp_path: Path) -> None:
    result = setup("-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("protokern-*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.split("/", 1)[1] for name in files.getnames() if "/" in name}
    needed = {"CMakeLists.txt", "LICENSE", "pyproject.toml", "setup.py", "build_tools/backend.py"}
    for folder in ("csrc", "build_tools", "protokern"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".cpp", ".h", ".txt", ".j2", ".css", ".js"}:
                needed.add(path.relative_to(ROOT).as_posix())
    assert needed <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
