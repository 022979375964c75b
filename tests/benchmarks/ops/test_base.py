"""Two trees against each other: which process measures which, what is told, where the tree of a revision comes from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commit import ROOT
from benchmarks.ops import base, gate, run
from benchmarks.ops.base import FASTER, SAME, SLOWER, UNKNOWN, check_out, verdict
from benchmarks.ops.timing import Timing

# Put behind the package's own lines, these make one op slow and another wrong.
WORSE = """
import time

_quick, _right = __getattr__("min_distance"), __getattr__("topk_pool")

def min_distance(*given, **named):
    time.sleep(0.02)
    return _quick(*given, **named)

def topk_pool(*given, **named):
    pool = _right(*given, **named)
    return pool._replace(activation=pool.activation + 1)
"""


@pytest.mark.slow
def test_a_slower_base_is_told_with_the_ratio_and_a_wrong_one_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "abc123"
    shutil.copytree(ROOT / "protokern", tree / "protokern", ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "protokern" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(WORSE)
    monkeypatch.setattr(base, "check_out", lambda revision: tree)
    monkeypatch.setattr(gate, "require_green", lambda tests, kind, root: None)
    what = ["--op", "min_distance,topk_pool", "--case", "tiny", "--mode", "fwd", "--threads", "1", "--settle", "0"]
    ours = ["--backend", "reference", "--precision", "fp32", "--seconds", "0.5"]
    assert run.main(["--base", "main", *what, *ours]) == 1
    printed = capsys.readouterr().out
    assert "\nbase: main (abc123); here: " in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("reference fp32 ")]
    base_ms, here_ms, ratio = (float(cell) for cell in line.split()[2:8:2])
    assert base_ms > 20 > here_ms
    assert ratio == pytest.approx(base_ms / here_ms, rel=0.01)
    assert line.endswith(f"   {FASTER}")
    assert "WRONG OR BROKEN, not timed\n  base: reference fp32: wrong answer: reference fp32: must be within" in printed
    assert "here: reference" not in printed
    assert printed.endswith(f"\nOf 1 times: 1 {FASTER}\n")


def test_the_gate_runs_in_both_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def require(tests: list[Path], kind: str, root: Path) -> None:
        asked.append((tests, root))
        if root == tmp_path:
            raise gate.RedGateError("red")

    monkeypatch.setattr(base, "check_out", lambda revision: tmp_path)
    monkeypatch.setattr(gate, "require_green", require)
    with pytest.raises(gate.RedGateError):
        run.main(["--base", "main", "--op", "topk_pool", "--case", "tiny", "--backend", "reference"])
    assert asked == [([root / "tests/kernels/test_topk_pool.py"], root) for root in (ROOT, tmp_path)]


def test_only_ranges_that_lie_apart_are_a_difference() -> None:
    here = Timing(1.0, 1.1, 1.2, 20)
    assert verdict(Timing(1.3, 1.4, 1.5, 20), here) == FASTER
    assert verdict(Timing(0.7, 0.8, 0.9, 20), here) == SLOWER
    assert verdict(Timing(1.1, 1.4, 1.5, 20), here) == SAME
    assert verdict(Timing(1.3, 1.4, 1.5, 4), here) == UNKNOWN


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: the second changes Python alone. Libraries are built of what `setup.py` says."""
    root = tmp_path / "repository"
    (root / "protokern").mkdir(parents=True)
    (root / "csrc").mkdir()
    (root / "csrc" / "a.cpp").write_text("1")
    (root / "setup.py").write_text(
        "from pathlib import Path\n"
        "folder = Path('protokern/lib')\n"
        "folder.mkdir(exist_ok=True)\n"
        "(folder / 'libprotokern_cpu.so').write_text('built of ' + Path('csrc/a.cpp').read_text())\n"
    )
    git(root, "init", "--quiet", "--initial-branch=main")
    for text in ("old", "new"):
        (root / "protokern" / "__init__.py").write_text(text)
        git(root, "add", "protokern/__init__.py", "csrc", "setup.py")
        git(root, "commit", "--quiet", "-m", text)
    subprocess.run([sys.executable, "setup.py"], cwd=root, check=True)
    return root


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True)


def library_of(tree: Path) -> str:
    return (tree / "protokern" / "lib" / "libprotokern_cpu.so").read_text()


def test_the_tree_of_a_revision_has_its_sources_and_our_libraries_where_they_are_the_same(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "protokern" / "lib" / "libprotokern_cpu.so").write_text("ours")
    tree = check_out("main~1", repository, tmp_path / "bases")
    assert (tree / "protokern" / "__init__.py").read_text() == "old"
    assert library_of(tree) == "ours"
    assert check_out("main~1", repository, tmp_path / "bases") == tree


def test_other_sources_are_built_once(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "csrc" / "a.cpp").write_text("2")
    trees = [check_out("main", repository, tmp_path / "bases") for _ in range(2)]
    assert [library_of(tree) for tree in trees] == ["built of 1"] * 2
    assert capsys.readouterr().out.count("building the C++ of") == 1


def test_a_tree_whose_libraries_do_not_build_ends_the_run(repository: Path, tmp_path: Path) -> None:
    (repository / "setup.py").write_text("raise SystemExit('no compiler')")
    git(repository, "commit", "--quiet", "-am", "broken")
    (repository / "csrc" / "a.cpp").write_text("2")
    with pytest.raises(SystemExit, match="must build; it said:\nno compiler"):
        check_out("main", repository, tmp_path / "bases")


def test_what_is_no_revision_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--base: must be a revision of the repository in .*; got 'mian'"):
        check_out("mian", repository, tmp_path / "bases")
