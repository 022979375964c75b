"""Writes the versions of all packages of this environment as constraints for pip: write_constraints.py FILE."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

LIST = [sys.executable, "-m", "pip", "--disable-pip-version-check", "list", "--format=json", "--exclude-editable"]


def constraints(packages: dict[str, str], made: str) -> str:
    """The text of a constraints file; builds of one release, such as 2.14.1+cpu, are one version."""
    head = f"# Made by `make update-constraints`: {made}. Do not edit.\n"
    return head + "".join(f"{name}=={packages[name].split('+')[0]}\n" for name in sorted(packages, key=str.lower))


def main(path: Path) -> None:
    done = subprocess.run(LIST, capture_output=True, text=True, check=True)
    packages = {package["name"]: package["version"] for package in json.loads(done.stdout)}
    made = f"{datetime.date.today()}, Python {platform.python_version()}"
    path.write_text(constraints(packages, made), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
