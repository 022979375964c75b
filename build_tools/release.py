"""Builds the source distribution and the wheel, has auditwheel confirm the wheel's tag, and tries it: `make release`.

    release.py [--torch REQUIREMENTS] [--out DIR] [PYTHON ...]

PYTHON is a version, such as 3.12, or the path of an interpreter; by default 3.11 to 3.14, as far as they are on the
PATH. Each gets an environment of its own with the given torch and the wheel, where smoke.py runs with a compiler that
fails whenever it is called. The environments are removed in the end. Runs in an environment that has torch, what
pyproject.toml needs to build, and its extra `release`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cuda_toolkit import cuda_problem
from torch_package import find_torch

ROOT = Path(__file__).resolve().parents[1]
STEP = ROOT / "build_tools" / "step.sh"
SMOKE = ROOT / "build_tools" / "smoke.py"
WORK = ROOT / "build" / "release"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
# The process that loads the ops has them already; docs/decisions/stable-abi.md.
LIBRARIES_OF_TORCH = ("libtorch*.so", "libc10*.so")
IN_EVERY_WHEEL = (
    "protokern/lib/libprotokern_cpu.so",
    "protokern/recipes/quick.toml",
    "protokern/report/templates/report.js",
    "protokern-*.dist-info/licenses/LICENSE",
)
NEVER_IN_A_WHEEL = ("csrc/*", "tests/*", "benchmarks/*", "build_tools/*", "*.cpp", "*.pyc")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that runs: the command, and its version such as "3.12.1"."""

    command: str
    version: str


def find_interpreter(wanted: str) -> Interpreter | None:
    """The Python of a version or a path; None if there is none, or if it does not run, as a shim without a version."""
    command = shutil.which(f"python{wanted}" if wanted[0].isdigit() else wanted)
    if command is None:
        return None
    asked = [command, "-c", "import platform, sys; print(platform.python_version(), sys.executable)"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return None
    version, executable = answer.stdout.strip().split(" ", 1)
    return Interpreter(executable, version)


def choose_interpreters(named: list[str]) -> tuple[list[Interpreter], list[str]]:
    """The interpreters to try, and which of `VERSIONS` were not found.

    Raises:
        SystemExit: one that was named does not run, or none is left.
    """
    tried = {wanted: find_interpreter(wanted) for wanted in named or VERSIONS}
    missing = [wanted for wanted, interpreter in tried.items() if interpreter is None]
    found = [interpreter for interpreter in tried.values() if interpreter is not None]
    if missing and (named or not found):
        raise SystemExit(
            f"PYTHONS: must be versions on the PATH or paths of interpreters; got '{missing[0]}', which does not run. "
            "Install it, or leave it out."
        )
    return found, missing


def problem_of_contents(names: list[str]) -> str:
    """What a wheel with these files lacks or has too much; empty if nothing."""
    for pattern in IN_EVERY_WHEEL:
        if not any(fnmatch(name, pattern) for name in names):
            return f"the wheel lacks {pattern}"
    extra = [name for name in names if any(fnmatch(name, pattern) for pattern in NEVER_IN_A_WHEEL)]
    return f"the wheel has {extra[0]}, which is no part of the package" if extra else ""


def problem_of_audit(file: str, audit: dict[str, Any]) -> str:
    """Why what `auditwheel show --json` says does not allow the tag in the wheel's file name; empty if it does."""
    python, abi, platform = file.removesuffix(".whl").split("-")[-3:]
    if (python, abi) != ("py3", "none"):
        return f"the wheel is for {python}-{abi}, not for every Python 3"
    if platform != audit["sym_tag"]:
        return f"the wheel is tagged {platform}, but its symbols need {audit['sym_tag']}"
    foreign = [
        name for name in audit["external_libs"] if not any(fnmatch(name, pattern) for pattern in LIBRARIES_OF_TORCH)
    ]
    if foreign:
        return f"the wheel needs {foreign[0]}, which neither {platform} nor torch has"
    return "the wheel's libraries need a newer processor than the tag says" if audit["unsupported_isa"] else ""


def step(log: Path, what: str, *command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """One line for the reader; the noise goes to `log`, and is shown if the step fails, which ends the program."""
    done = subprocess.run(
        [STEP, log, what, *command], cwd=cwd, env={**os.environ, "STEP_OF": "release", **environment}, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def build_choice() -> str:
    """PROTOKERN_BUILD, or both libraries if they can be built here; never `auto`, which may leave one out."""
    torch = find_torch()
    return os.environ.get("PROTOKERN_BUILD") or ("cpu" if torch is None or cuda_problem(torch) else "cuda")


def build(out: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it, in `out`."""
    raw = WORK / "raw"
    builder = (sys.executable, "-m", "build", "--no-isolation")
    step(WORK / "sdist.log", "source distribution", *builder, "--sdist", "--outdir", raw)
    (sdist,) = raw.glob("*.tar.gz")
    unpacked = WORK / "source"
    shutil.unpack_archive(sdist, unpacked, filter="data")
    (source,) = unpacked.iterdir()
    choice = build_choice()
    what = f"wheel from it (PROTOKERN_BUILD={choice})"
    step(WORK / "wheel.log", what, *builder, "--wheel", "--outdir", raw, source, PROTOKERN_BUILD=choice)
    (wheel,) = raw.glob("*.whl")
    excluded = [part for pattern in LIBRARIES_OF_TORCH for part in ("--exclude", pattern)]
    tagged = WORK / "tagged"
    repair = (sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", *excluded, "--wheel-dir", tagged, wheel)
    step(WORK / "auditwheel.log", "auditwheel", *repair)
    (wheel,) = tagged.glob("*.whl")
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(sdist, out)), Path(shutil.copy2(wheel, out))


def audit(wheel: Path) -> None:
    """Compare the tag and the files of a wheel with what they must be; ends the program if they are not."""
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", wheel], capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel) as files:
        problem = problem_of_contents(files.namelist()) or problem_of_audit(wheel.name, json.loads(shown.stdout))
    if problem:
        raise SystemExit(f"release: {wheel}: {problem}.")
    print(f"release: auditwheel confirms {wheel.name}", flush=True)


def try_wheel(wheel: Path, interpreter: Interpreter, torch: list[str]) -> None:
    """Install the wheel in a new environment of one Python, without a compiler, and run smoke.py there."""
    name = f"Python {interpreter.version}"
    environment = WORK / f"python-{interpreter.version}"
    log = WORK / f"python-{interpreter.version}.log"
    python = environment / "bin" / "python"
    no_compiler = {"CC": "false", "CXX": "false", "PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip = (python, "-m", "pip", "install")
    try:
        step(log, f"{name}: environment", interpreter.command, "-m", "venv", "--clear", environment)
        step(log, f"{name}: {shlex.join(torch)}", *pip, *torch, **no_compiler)
        step(log, f"{name}: {wheel.name}", *pip, wheel, **no_compiler)
        step(log, f"{name}: smoke program", python, "-I", SMOKE, cwd=environment, **no_compiler)
        print("".join(f"release:   {line}\n" for line in log.read_text("utf-8").splitlines()), end="", flush=True)
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="release.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--torch", default="torch torchvision", help="what pip installs before the wheel")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    given = parser.parse_args(arguments)
    interpreters, missing = choose_interpreters(given.pythons)
    print(f"release: Python {', '.join(one.version for one in interpreters)}", end="")
    print(f"; not found: {', '.join(missing)}" if missing else "", flush=True)
    shutil.rmtree(WORK, ignore_errors=True)
    sdist, wheel = build(given.out)
    audit(wheel)
    for interpreter in interpreters:
        try_wheel(wheel, interpreter, shlex.split(given.torch))
    print(f"release: {sdist}\nrelease: {wheel}")


if __name__ == "__main__":
    main(sys.argv[1:])
