"""The code of every launch of the Triton kernels, to compare two trees: what Triton makes of its source, before ptxas.

    PYTHONPATH=TREE python tests/guards/triton_code.py record FILE.json
    python tests/guards/triton_code.py compare BEFORE.json AFTER.json

Functions are inlined and places in the source are left out, so that a function may move. Two launches with the same
hash run the same machine code; that needs no graphics card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any


def code_of(launch: Any, arch: int) -> str:
    """A hash of the launch's program after Triton's own passes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import ir, make_backend

    source = ASTSource(
        launch.kernel,
        dict(launch.signature),
        constexprs={(launch.kernel.arg_names.index(name),): value for name, value in launch.constants},
        attrs={(position,): [["tt.divisibility", 16]] for position in launch.divisible},
    )
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    options = backend.parse_options(dict(launch.options))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = source.make_ir(target, options, functions, backend.get_module_map(), context)
    module = stages["ttir"](module, {"target": target, **options.__dict__})
    return hashlib.sha256(_with_constants_in_place(module.str_nodebug()).encode()).hexdigest()[:32]


def _with_constants_in_place(code: str) -> str:
    """Constants stand at the top in the order in which they came up; here they stand where they are used."""
    values = dict(re.findall(r"(?m)^ *(%\w+) = arith\.constant (.*)$", code))
    code = re.sub(r"(?m)^ *%\w+ = arith\.constant .*\n", "", code)
    return re.sub(r"%\w+", lambda name: values.get(name[0], name[0]), code)


def record(path: Path) -> None:
    """Write a hash for every launch on every architecture."""
    from benchmarks.tools import triton_resources

    found = {}
    for arch in triton_resources.ARCHITECTURES:
        for launch in triton_resources.every_launch(arch):
            found[f"sm_{arch} {launch.name} {launch.configuration}"] = code_of(launch, arch)
    path.write_text(json.dumps(found, indent=0))
    print(f"{len(found)} launches of {Path(triton_resources.__file__).parents[2]}")


def compare(before: Path, after: Path) -> int:
    """Print what differs between two records; 1 if anything does."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    print(f"{len(new)} launches, {len(differing)} differ")
    for key in differing[:20]:
        print(f"    {key}")
    return int(bool(differing))


def main() -> int:
    parser = argparse.ArgumentParser(description="Code of every Triton launch, to compare two trees.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("path", type=Path)
    verb = verbs.add_parser("compare")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.verb == "compare":
        return compare(args.before, args.after)
    record(args.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
