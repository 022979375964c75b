"""Who may change where a training stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from protokern.runs.progress import Progress

from .toy import toy_config, toy_run

PACKAGE = Path(__file__).resolve().parents[2] / "protokern"
OWNERS = ("train/state.py", "runs/progress.py")


def assigned_attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Every `a.b` that is assigned, or changed by an operator."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute):
                    yield part


def test_only_their_owners_assign_what_moves_in_a_training(tmp_path: Path) -> None:
    moving = {*vars(toy_run(tmp_path, toy_config())), *(one.name for one in fields(Progress))}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if str(path.relative_to(PACKAGE)) in OWNERS:
            continue
        for target in assigned_attributes(ast.parse(path.read_text(encoding="utf-8"))):
            owner = ast.unparse(target.value)
            if target.attr in moving and owner.rpartition(".")[2] in ("run", "state", "progress", "sums"):
                found.append(f"{path.name}:{target.lineno} {ast.unparse(target)}")
    assert found == []


def test_a_job_is_fixed(tmp_path: Path) -> None:
    run = toy_run(tmp_path, toy_config())
    with pytest.raises(FrozenInstanceError):
        run.job.workers = 2  # type: ignore[misc]
