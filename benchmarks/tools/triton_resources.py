"""Compiles every launch of the Triton kernels ahead of time and stores what each needs of a GPU.

`python -m benchmarks triton-resources` takes some minutes and writes protokern/kernels/triton_common/resources.csv; no
GPU is needed. Launches are recorded, not made: the ops run on tensors without memory, and what they hand to Triton is
compiled instead.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from protokern.kernels.triton_common import limits

from .triton_problems import PROBLEMS, Problem

TABLE = Path(limits.__file__).with_name("resources.csv")
ARCHITECTURES = (80, 90)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with all that decides its machine code.

    Attributes:
        kernel: the jitted function.
        signature: Triton's type of every argument, "constexpr" among them.
        constants: values of the constexpr arguments, by name.
        divisible: positions of the arguments that are multiples of 16.
        options: of the compiler, by name.
    """

    kernel: JITFunction
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.__name__

    @property
    def configuration(self) -> str:
        """What distinguishes this launch from others of the kernel, readable and the same on every machine."""
        parts = [f"{name}={value}" for name, value in self.constants if name.isupper()]
        pointers = [kind.removeprefix("*") for _, kind in self.signature if kind.startswith("*")]
        ones = [name for name, value in self.constants if not name.isupper() and value is not None]
        text = " ".join([*parts, *(f"{name}={value}" for name, value in self.options), "types=" + ",".join(pointers)])
        return f"{text} ones={','.join(ones)}" if ones else text


@dataclass(frozen=True, slots=True)
class Resources:
    """A row of the table; bytes of stack and shared memory per thread and per program."""

    kernel: str
    arch: int
    configuration: str
    registers: int
    stack: int
    spills: int
    shared: int
    wgmma: int
    triton: str


COLUMNS = tuple(field.name for field in fields(Resources))


def record(problem: Problem, arch: int) -> list[Launch]:
    """The launches of one call on a device of architecture `arch`."""
    launches: list[Launch] = []
    with _recording(launches), limits.pretend(limits.KNOWN_LIMITS[arch]):
        problem.call()
    return launches


def every_launch(arch: int, problems: Sequence[Problem] = PROBLEMS) -> list[Launch]:
    """The launches of all problems, each once, in the order of the table."""
    unique = {(launch.name, launch.configuration): launch for problem in problems for launch in record(problem, arch)}
    return [unique[key] for key in sorted(unique)]


def compile_launch(launch: Launch, arch: int) -> Resources:
    """Compile for `arch` and read off the machine code what it needs."""
    source = ASTSource(
        launch.kernel,
        dict(launch.signature),
        constexprs={(launch.kernel.arg_names.index(name),): value for name, value in launch.constants},
        attrs={(position,): [["tt.divisibility", 16]] for position in launch.divisible},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(launch.options))
    registers, stack, spills = _usage(compiled.asm["cubin"])
    return Resources(
        kernel=launch.name,
        arch=arch,
        configuration=launch.configuration,
        registers=registers,
        stack=stack,
        spills=spills,
        shared=compiled.metadata.shared,
        wgmma=int("wgmma.mma_async" in compiled.asm["ptx"]),
        triton=triton.__version__,
    )


def read_table(path: Path = TABLE) -> list[Resources]:
    """The stored table."""
    with path.open(newline="") as file:
        return [
            Resources(**{name: line[name] if name in _TEXTS else int(line[name]) for name in COLUMNS})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]


def write_table(table: Sequence[Resources], path: Path = TABLE) -> None:
    """Write the table, sorted, so that a change is a small difference."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(astuple(row) for row in table))


_TEXTS = ("kernel", "configuration", "triton")


@contextmanager
def _recording(launches: list[Launch]) -> Iterator[None]:
    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_launch(kernel, args, options))

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original


def _launch(kernel: JITFunction, args: Sequence[Any], options: dict[str, Any]) -> Launch:
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: options[name] for name in kernel.arg_names if name in options}
    signature, constants, divisible = [], [], []
    for position, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        kind = "constexpr" if parameter.is_constexpr else _type(value)
        if kind == "constexpr":
            constants.append((parameter.name, value))
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            divisible.append(position)
        signature.append((parameter.name, kind))
    return Launch(
        kernel,
        tuple(signature),
        tuple(constants),
        tuple(divisible),
        tuple(sorted((name, value) for name, value in options.items() if name not in kernel.arg_names)),
    )


def _type(value: Any) -> str:
    """Triton's type of an argument; what it folds into the code, a 1 or None, is a constexpr."""
    if isinstance(value, torch.Tensor):
        names = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
        names |= {torch.int64: "i64", torch.int32: "i32", torch.int8: "i8"}
        return f"*{names[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if value is None or value == 1:
        return "constexpr"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _usage(cubin: bytes) -> tuple[int, int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _cuobjdump("--dump-resource-usage", path)
        code = _cuobjdump("--dump-sass", path)
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return registers, stack, len(re.findall(r"\b(?:STL|LDL)\b", code))


def _cuobjdump(option: str, path: Path) -> str:
    return subprocess.run([str(CUOBJDUMP), option, str(path)], capture_output=True, text=True, check=True).stdout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks triton-resources", description=__doc__)
    parser.add_argument("--out", type=Path, default=TABLE, help="CSV file to write")
    arguments = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET"):
        parser.error("TRITON_INTERPRET: must not be set; interpreted kernels cannot be compiled. Unset it.")
    table = []
    for arch in ARCHITECTURES:
        launches = every_launch(arch)
        for number, launch in enumerate(launches, 1):
            row = compile_launch(launch, arch)
            table.append(row)
            print(
                f"sm_{arch} {number}/{len(launches)} {row.kernel} {row.registers} registers, {row.stack} stack, "
                f"{row.spills} spills, {row.shared} shared{', wgmma' if row.wgmma else ''}: {row.configuration}",
                flush=True,
            )
        write_table(table, arguments.out)
    return 0
