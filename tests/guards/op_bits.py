"""The bits of every op: SHA-256 of outputs and gradients, to compare two trees on one machine.

    PYTHONPATH=TREE python tests/guards/op_bits.py record FILE.json
    python tests/guards/op_bits.py compare BEFORE.json AFTER.json

A record has every backend that runs here: the reference, the C++ under each instruction set of this processor, and the
Triton kernels in Triton's interpreter, which takes milliseconds a program and so gets fewer cases. Hashes of two
machines, or of two versions of torch, are not to be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Every metric with the activations that make sense of it.
SIMILARITIES = {"sqeuclidean": ("log", "linear", "exp"), "cosine": ("log", "linear", "exp", "cosine")}
INSTRUCTION_SETS = ("base", "avx2", "avx512", "avx512bf16", "amx")
WEIGHTS = ("no weights", "weights", "mask")
# Of the interpreter's cases: types and shapes that take all activations; the others take one each, in turn.
ALL_ACTIVATIONS = ("plain", "patches")
INTERPRETED_SHAPES = {torch.float64: ("plain", "patches", "not finite"), torch.bfloat16: (), torch.float16: ("plain",)}


@dataclass(frozen=True)
class Shape:
    """B images of D x H x W and P prototypes of h x w cells, and what is special about their values."""

    batch: int
    depth: int
    height: int
    width: int
    prototypes: int
    patch: tuple[int, int] | None = None

    def inputs(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(
            self.batch, self.depth, self.height, self.width, generator=generator, dtype=torch.float64
        )
        prototypes = torch.randn(
            self.prototypes, self.depth, *(self.patch or ()), generator=generator, dtype=torch.float64
        )
        features, prototypes = (features + 0.5).to(dtype), (prototypes + 0.5).to(dtype)
        if name == "strided":
            features = torch.stack([features, features - 9], -1).flatten(-2)[..., ::2].transpose(2, 3).transpose(2, 3)
            prototypes = prototypes.mT.contiguous().mT
        if name == "channels last":
            features = features.to(memory_format=torch.channels_last)
        if name == "ties":
            features[:, :, 1:] = features[:, :, :1]
            prototypes[:] = features[0, :, 0, torch.arange(self.prototypes) % self.width].mT
            prototypes[1] = prototypes[0] + 0.25
        if name == "not finite":
            features[0, 1, 1, 1], features[1, 0, 2, 0], prototypes[2, 3] = torch.nan, torch.inf, -torch.inf
            features[2, :, 0, 1] = 0
            prototypes[0] = 0
        if name == "far off":
            features, prototypes = features + 300, prototypes + 300
        return features, prototypes


SHAPES = {
    "plain": Shape(2, 5, 4, 3, 7),
    "patches": Shape(2, 3, 4, 5, 6, (2, 3)),
    "one": Shape(1, 1, 1, 1, 1),
    "square": Shape(3, 16, 7, 7, 50),
    "primes": Shape(2, 17, 5, 13, 49),
    "a row": Shape(5, 8, 1, 31, 3),
    "no images": Shape(0, 5, 4, 3, 7),
    "no prototypes": Shape(2, 3, 4, 5, 0, (2, 3)),
    "strided": Shape(2, 33, 3, 11, 70),
    "channels last": Shape(2, 32, 6, 5, 20),
    "ties": Shape(2, 5, 4, 3, 7),
    "not finite": Shape(3, 6, 4, 5, 9),
    "far off": Shape(1, 40, 3, 3, 12, (2, 2)),
}


def hash_of(tensor: Tensor) -> str:
    """Of type, shape and bits."""
    bits = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + bits).hexdigest()[:32]


def patch_weight(kind: str, grid: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Weights (B, H', W') from 0 to 1 with some of both, a mask, or None."""
    if kind == "no weights":
        return None
    weight = torch.rand(grid, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1.4 - 0.2
    weight = weight.clamp(0, 1)
    if kind == "mask":
        return weight > 0.2
    return weight.to(torch.float64 if dtype == torch.float64 else torch.float32)


def calls(name: str, dtype: torch.dtype, backend: str) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """What every op gives on a shape: a name, outputs, and the tensors that want a gradient."""
    from protokern import kernels

    is_interpreted = backend == "triton"
    shape = SHAPES[name]
    height, width = shape.patch or (1, 1)
    grid = (shape.batch, shape.height - height + 1, shape.width - width + 1)
    turn = itertools.count(list(SHAPES).index(name))

    def leaves() -> tuple[Tensor, Tensor]:
        features, prototypes = shape.inputs(name, dtype)
        return features.requires_grad_(), prototypes.requires_grad_()

    def activations(metric: str) -> tuple[str, ...]:
        names = SIMILARITIES[metric]
        return (names[next(turn) % len(names)],) if is_interpreted and name not in ALL_ACTIVATIONS else names

    for metric in SIMILARITIES:
        common = {"metric": metric, "backend": backend}
        for kind in WEIGHTS if not is_interpreted or name in ("plain", "not finite") else WEIGHTS[:1]:
            weight = patch_weight(kind, grid, dtype)
            if weight is not None and weight.is_floating_point():
                weight.requires_grad_()
            weights = [weight] if weight is not None and weight.requires_grad else []
            more = common | {"patch_weight": weight}
            x, p = leaves()
            yield f"min_distance {metric} {kind}", list(kernels.min_distance(x, p, **more)), [x, p, *weights]
            for activation in activations(metric):
                x, p = leaves()
                pooled = kernels.prototype_pool(x, p, activation=activation, **more)
                yield f"prototype_pool {metric} {activation} {kind}", list(pooled), [x, p, *weights]
            for k in (1, 3) if grid[1] * grid[2] >= 3 else (1,):
                x, p = leaves()
                activation = SIMILARITIES[metric][k % 3]
                several = kernels.topk_pool(x, p, k, activation=activation, **more)
                yield f"topk_pool {k} {metric} {activation} {kind}", list(several), [x, p, *weights]
            x, p = leaves()
            distances = kernels.distance_map(x, p, **more)
            yield f"distance_map {metric} {kind}", [distances], [x, p, *weights]
            x, p = leaves()
            patch = (torch.arange(shape.batch)[:, None] + torch.arange(shape.prototypes)) % (grid[1] * grid[2])
            yield f"distance_at {metric} {kind}", [kernels.distance_at(x, p, patch, **more)], [x, p, *weights]
        for activation in activations(metric):
            x, p = leaves()
            means = kernels.mean_activation(x, p, activation=activation, **common)
            yield f"mean_activation {metric} {activation}", [means], [x, p]


def hashes(backend: str) -> dict[str, str]:
    """The hash of every output and gradient of a backend, by a name that says what it is."""
    found = {}
    for dtype, name in itertools.product(DTYPES, SHAPES):
        if backend == "triton" and name not in INTERPRETED_SHAPES.get(dtype, SHAPES):
            continue
        for call, outputs, inputs in calls(name, dtype, backend):
            key = f"{str(dtype).removeprefix('torch.')} {name}: {call}"
            values = [output for output in outputs if output.requires_grad]
            generator = torch.Generator().manual_seed(3)
            grads = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in values]
            gradients = torch.autograd.grad(values, inputs, grads, allow_unused=True) if values else ()
            for position, tensor in enumerate((*outputs, *gradients)):
                found[f"{key} [{position}]"] = "none" if tensor is None else hash_of(tensor)
    return found


def runnable() -> list[str]:
    """The backends of this machine, the C++ once for every instruction set."""
    from protokern.kernels import native_library

    supported = native_library.build_info().supported
    return ["reference", *(f"native-{name}" for name in INSTRUCTION_SETS if name in supported), "triton"]


def record(path: Path, only: list[str]) -> None:
    """Write the hashes of `only`, or of all that runs here, each in a process with the settings that it needs."""
    import protokern

    result = {}
    for name in only or runnable():
        backend, _, instruction_set = name.partition("-")
        settings = {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(backend == "triton"))}
        if instruction_set:
            settings["PROTOKERN_ISA"] = instruction_set
        call = [sys.executable, __file__, "hashes", backend]
        done = subprocess.run(call, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
        result[name] = json.loads(done.stdout)
        print(f"{name}: {len(result[name])} tensors of {Path(protokern.__file__).parent}")
    path.write_text(json.dumps(result, indent=0))


def compare(before: Path, after: Path) -> int:
    """Print what differs between two records; 1 if anything does."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    status = 0
    for name in new:
        names = old[name].keys() | new[name].keys()
        differing = sorted(key for key in names if old[name].get(key) != new[name].get(key))
        print(f"{name}: {len(names)} tensors, {len(differing)} differ")
        for key in differing[:20]:
            print(f"    {key}")
        status |= bool(differing)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Bits of every op, to compare two trees.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("record")
    verb.add_argument("path", type=Path)
    verb.add_argument("only", nargs="*", help="reference, native-avx2, triton; default: all that run here")
    verb = verbs.add_parser("compare")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    verb = verbs.add_parser("hashes")
    verb.add_argument("backend")
    args = parser.parse_args()
    if args.verb == "compare":
        return compare(args.before, args.after)
    if args.verb == "hashes":
        torch.set_num_threads(1)
        json.dump(hashes(args.backend), sys.stdout)
        return 0
    record(args.path, args.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
