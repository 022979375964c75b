"""The process of one tree in a comparison of two (base.py): `python -m benchmarks.ops.side TREE KIND`.

The benchmarks are those of this tree for both; `protokern` comes from the tree that is given, so it is imported before
anything of the benchmarks that imports it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path


def load(tree: Path) -> None:
    """Import `protokern` from a tree.

    Raises:
        SystemExit: it comes from somewhere else.
    """
    sys.path.insert(0, str(tree))
    found = Path(str(import_module("protokern").__file__)).resolve().parents[1]
    if found != tree.resolve():
        raise SystemExit(f"protokern: must come from {tree}; got that of {found}.")


def main() -> None:
    tree, kind = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    load(Path(tree))
    from benchmarks.ops.base import Session
    from benchmarks.ops.run import open_device

    Session(open_device(kind)).answer(sys.stdin, answers)


if __name__ == "__main__":
    main()
