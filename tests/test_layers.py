"""The house rules that a machine can check: who may import whom, who writes weights, how long things get."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "protokern"
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install '.[lint]'")
    return subprocess.run(LINT, cwd=folder, capture_output=True, text=True, check=False)


def imported_names(path: Path) -> set[str]:
    """Every absolute module or name that a file imports, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called_names(path: Path) -> set[str]:
    """What a file calls, as written: `torch.save` for `torch.save(state, path)`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_the_package_keeps_the_import_rules() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


# One import of each kind that the rules forbid: upwards, sideways, of data, of a model into a report.
FORBIDDEN = (
    ("errors", "kernels"),
    ("kernels", "nn"),
    ("nn", "losses"),
    ("nn", "backbones"),
    ("losses", "models"),
    ("models", "search"),
    ("search", "push"),
    ("push", "prune"),
    ("prune", "train"),
    ("train", "explain"),
    ("solvers", "runs"),
    ("runs", "train"),
    ("solvers", "prune"),
    ("inputs", "solvers"),
    ("inputs", "runs"),
    ("config", "train"),
    ("config", "evaluate"),
    ("evaluate", "search"),
    ("ranks", "evaluate"),
    ("results", "storage"),
    ("report", "cli"),
    ("report", "data"),
    ("runs", "explain"),
    ("report", "models"),
    ("report", "kernels"),
    ("data", "kernels"),
    ("storage", "data"),
    ("errors", "storage"),
    ("data", "models"),
    ("models", "data"),
    ("search", "data"),
    ("explain", "data"),
    ("kernels", "data"),
)


def a_package_with_the_layout(folder: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", folder)
    package = folder / "protokern"
    parts = (
        "cli report train explain runs push prune solvers inputs search evaluate config "
        "losses models nn backbones kernels data features ranks storage results recipes errors"
    )
    for part in parts.split():
        (package / part).mkdir(parents=True)
        (package / part / "__init__.py").touch()
    (package / "__init__.py").touch()
    return package


@pytest.fixture(scope="module")
def what_the_linter_says(tmp_path_factory: pytest.TempPathFactory) -> str:
    """About a package of the same layout with all the forbidden imports, which is accepted without them."""
    folder = tmp_path_factory.mktemp("layout")
    package = a_package_with_the_layout(folder)
    assert lint(folder).returncode == 0
    for importer, imported in FORBIDDEN:
        with (package / importer / f"of_{imported}.py").open("w", encoding="utf-8") as file:
            file.write(f"from protokern import {imported}\n")
    result = lint(folder)
    assert result.returncode == 1
    return result.stdout


@pytest.mark.parametrize(("importer", "imported"), FORBIDDEN)
def test_the_import_rules_catch(importer: str, imported: str, what_the_linter_says: str) -> None:
    assert f"protokern.{importer}.of_{imported} -> protokern.{imported} (l.1)" in what_the_linter_says


def test_kernels_know_tensors_only() -> None:
    module_names = {"torch.nn.Module", "torch.nn.Parameter", "torch.nn"}
    offenders = {path.name for path in python_files(PACKAGE / "kernels") if imported_names(path) & module_names}
    assert not offenders


def test_what_measures_and_shows_the_package_imports_no_command() -> None:
    """What a benchmark or an example needs is part of the library, not of its command line."""
    offenders = {
        path.name
        for path in python_files(ROOT / "benchmarks", ROOT / "examples")
        if any(name.startswith("protokern.cli") for name in imported_names(path))
    }
    assert offenders == set()


def test_only_the_checkpoint_writes_weights() -> None:
    writers = {"torch.save", "pickle.dump", "pickle.dumps"}
    allowed = PACKAGE / "runs" / "checkpoints.py"
    offenders = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in python_files(PACKAGE)
        if path != allowed
        for call in called_names(path)
        if call in writers or call.rpartition(".")[2] in {"save_file", "save_model"}
    }
    assert not offenders


def test_only_storage_renames_syncs_and_locks_files() -> None:
    """What is safe against a kill or a full disk is so in one place."""
    touches = {"os.replace", "os.rename", "os.fsync", "os.fdatasync"}
    offenders = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(PACKAGE)
        if not path.is_relative_to(PACKAGE / "storage")
        for name in (called_names(path) & touches) | (imported_names(path) & {"fcntl", *touches})
    }
    assert not offenders


def test_files_and_functions_stay_short() -> None:
    """400 lines a file, 60 lines a function: what a person can hold in mind."""
    offenders = []
    for path in python_files(PACKAGE, ROOT / "benchmarks", ROOT / "examples", ROOT / "tests"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            offenders.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not offenders


def test_there_is_no_drawer_for_everything() -> None:
    names = {"utils", "util", "helpers", "helper", "misc", "common"}
    offenders = [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.stem in names]
    assert not offenders
