"""Which commit is measured. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git_sha() -> str:
    """Short commit of the checkout, with `+` when tracked files differ from it; "unknown" outside one or without git.

    PROTOKERN_COMMIT says it where git cannot, as in a copy of the files, or where rows that were just stored would
    look like a change.
    """
    said = os.environ.get("PROTOKERN_COMMIT")
    if said:
        return said
    program = shutil.which("git")
    if program is None:
        return "unknown"
    command = [program, "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"
