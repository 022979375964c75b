"""Stage a: which device and versions, the libraries built or found, and whether the package loads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.commit import ROOT
from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.worker import Result
from benchmarks.ops.cuda import ask_nvidia_smi

# What a driver says of the first GPU, in one line.
FACTS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
PACKAGES = (
    "torch",
    "triton",
    "torchvision",
    "numpy",
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "pydantic",
    "ninja",
    "cmake",
)
LIBRARIES = ("libprotokern_cpu.so", "libprotokern_cuda.so")
TAIL = 15


def look_units(settings: Settings, records: Records) -> list[Unit]:
    return [{"name": "device"}]


def look(unit: Unit, settings: Settings) -> Result:
    """Whether a device is there and computes."""
    if settings.rehearse:
        return Result(status="done", text="rehearsal: the processor plays the device")
    if not torch.cuda.is_available():
        seen = ask_nvidia_smi("name") or "nvidia-smi names none"
        return Result(status="missing", text=f"torch {torch.__version__} sees no CUDA device; {seen}")
    total = float(torch.ones(1000, device="cuda").sum())
    if total != 1000:
        return Result(status="wrong", text=f"the device adds a thousand ones up to {total}")
    return Result(status="done", text=f"{torch.cuda.get_device_name()}; {ask_nvidia_smi(FACTS) or 'no nvidia-smi'}")


def prepare_units(settings: Settings, records: Records) -> list[Unit]:
    return [{"name": name} for name in ("versions", "build", "import", "doctor")]


def prepare(unit: Unit, settings: Settings) -> Result:
    return {"versions": versions, "build": build, "import": import_all, "doctor": doctor}[unit["name"]](settings)


def versions(settings: Settings) -> Result:
    found = [f"{name} {package_version(name)}" for name in PACKAGES]
    system = f"Python {platform.python_version()}, {os.cpu_count()} processors, CUDA {torch.version.cuda}"
    return Result(status="done", text=", ".join([system, *found]))


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def build(settings: Settings, folder: Path = ROOT / "protokern" / "lib") -> Result:
    """Build the libraries in place where one is missing or older than its sources.

    PROTOKERN_BUILD=none takes what is there.
    """
    missing = [name for name in LIBRARIES if not (folder / name).exists()]
    if os.environ.get("PROTOKERN_BUILD") == "none":
        said = f"PROTOKERN_BUILD=none: taken as they are; missing: {', '.join(missing) or 'none'}"
        return Result(status="done", text=said)
    if not missing and not is_stale(folder):
        return Result(status="done", text=f"found {', '.join(LIBRARIES)}, newer than their sources")
    why = f"no {' and no '.join(missing)}" if missing else "sources are newer than the libraries"
    if settings.rehearse:
        return Result(status="done", text=f"rehearsal: nothing is built ({why})")
    environment = dict(os.environ)
    if torch.cuda.is_available():
        # For the device at hand alone: half the time.
        major, minor = torch.cuda.get_device_capability()
        environment.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    said = "\n    ".join(answer.stdout.strip().splitlines()[-TAIL:])
    absent = [name for name in LIBRARIES if not (folder / name).exists()]
    if answer.returncode or absent:
        reason = f"exit code {answer.returncode}" if answer.returncode else f"there is no {' and no '.join(absent)}"
        return Result(status="crashed", text=f"{why}; the build: {reason}\n    {said}")
    return Result(status="done", text=f"{why}; built")


def is_stale(folder: Path) -> bool:
    """Whether a source is newer than a library."""
    sources = [ROOT / "CMakeLists.txt", *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]
    sources = [path for path in sources if "tests" not in path.parts]
    newest = max(path.stat().st_mtime for path in sources)
    return any((folder / name).stat().st_mtime < newest for name in LIBRARIES)


def import_all(settings: Settings) -> Result:
    """Load the package; each backend that cannot run on the device is named."""
    import protokern

    place = "cpu" if settings.rehearse else "cuda"
    lines, able = [f"protokern {protokern.__version__} in {Path(protokern.__file__).parent}"], True
    for name, status in protokern.available_backends().items():
        runs = status.available and bool({"any", place} & {*status.devices})
        able = able and (runs or settings.rehearse)
        lines.append(f"{name}: {'yes' if runs else 'NO: ' + (status.reason or f'does not run on {place}')}")
    return Result(status="done" if able else "missing", text="; ".join(lines))


def doctor(settings: Settings) -> Result:
    answer = subprocess.run(
        [sys.executable, "-m", "protokern", "doctor"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = (answer.stdout + answer.stderr).strip().splitlines()
    status = "crashed" if answer.returncode else "done"
    return Result(status=status, text="\n    ".join(["", *said[-40:]]))
