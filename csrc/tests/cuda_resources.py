"""Compiles every CUDA kernel for sm_80 and sm_90 and compares what it takes of the processor with the stored table.

    python csrc/tests/cuda_resources.py           fails where a kernel spills or the table is out of date
    python csrc/tests/cuda_resources.py --write   writes csrc/core/cuda/resources.csv

Needs nvcc, no graphics card; without nvcc it says so and succeeds. Registers differ between releases of nvcc: with
another one than the table's, only spills are looked for. Dynamic shared memory is chosen at the launch and not listed.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "core" / "cuda"
TABLE = SOURCES / "resources.csv"
ARCHITECTURES = ("sm_80", "sm_90")
COLUMNS = ("kernel", "architecture", "registers", "shared_bytes", "stack_bytes", "spill_stores", "spill_loads", "nvcc")

Row = dict[str, str]


def release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", text)
    if found is None:
        raise SystemExit(f"cuda_resources: '{nvcc} --version' names no release:\n{text}")
    return found[1]


def compile_source(nvcc: str, source: Path, architecture: str) -> str:
    """What ptxas says about the kernels of one file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(nvcc, "-cubin", "-std=c++20", "-O3", f"-arch={architecture}", "-Xptxas", "-v", "-Xcompiler", "-Wall"),
            *(
                "-I",
                str(SOURCES),
                "-I",
                str(SOURCES.parent),
                "-I",
                str(SOURCES.parent / "cpu"),
                "-o",
                str(Path(folder) / "out.cubin"),
                str(source),
            ),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"cuda_resources: {source.name} does not compile for {architecture}:\n{result.stderr}")
    return result.stderr


def rows_of(report: str, architecture: str, nvcc_release: str) -> list[Row]:
    """One row per kernel of a report of `ptxas -v`."""
    rows = []
    for part in report.split("Compiling entry function '")[1:]:
        resources = re.search(r"Used (\d+) registers", part)
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert resources is not None, part
        assert spills is not None, part
        shared = re.search(r"(\d+) bytes smem", part)
        values = (
            *(kernel_name(part.partition("'")[0]), architecture, resources[1], shared[1] if shared else "0"),
            *(spills[1], spills[2], spills[3], nvcc_release),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def kernel_name(mangled: str) -> str:
    """`tensor_search_kernel<(Precision)0, 4>` of the name in the object file."""
    name = subprocess.run(["c++filt", mangled], check=True, capture_output=True, text=True).stdout.strip()
    name = re.sub(r"protokern::cuda::|_GLOBAL__N__\w+::|\(anonymous namespace\)::|^void ", "", name)
    depth = 0
    for at, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def measure(nvcc: str) -> list[Row]:
    found = release(nvcc)
    tasks = [(source, arch) for source in sorted(SOURCES.glob("*.cu")) for arch in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda task: compile_source(nvcc, *task), tasks))
    rows = [row for report, (_, arch) in zip(reports, tasks, strict=True) for row in rows_of(report, arch, found)]
    return sorted(rows, key=lambda row: (row["kernel"], row["architecture"]))


def problems(rows: list[Row], stored: list[Row]) -> list[str]:
    """What is wrong with `rows`, one line each."""
    found = [
        f"{row['kernel']} on {row['architecture']}: spills {row['spill_stores']} bytes to and {row['spill_loads']} "
        f"from local memory (stack {row['stack_bytes']} bytes)"
        for row in rows
        if any(row[column] != "0" for column in ("stack_bytes", "spill_stores", "spill_loads"))
    ]
    if {row["nvcc"] for row in rows} != {row["nvcc"] for row in stored}:
        return found
    before = {(row["kernel"], row["architecture"]): row for row in stored}
    after = {(row["kernel"], row["architecture"]): row for row in rows}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            shown = [", ".join(row.values()) if row else "nothing" for row in (before.get(key), after.get(key))]
            found.append(f"{key[0]} on {key[1]}: the table has {shown[0]}; compiled: {shown[1]}. Run with --write.")
    return found


def say(line: str) -> None:
    sys.stdout.write(f"cuda_resources: {line}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        say("skipped, nvcc was not found; put it on the path to compile the CUDA kernels")
        return 0
    rows = measure(nvcc)
    if arguments.write:
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with TABLE.open(newline="") as file:
        wrong = problems(rows, list(csv.DictReader(file)))
    for line in wrong:
        say(line)
    say(f"{len(rows)} kernels for {', '.join(ARCHITECTURES)}, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
