"""Measures tiles of the Triton kernels on this CUDA device and puts the best into the table that users run with.

`python -m benchmarks tune` (or `make tune`) tries thousands of candidates, which all cores compile ahead. With few of
them that takes hours: `--op` and `--precision` choose a part, and rows are stored one by one. What gives wrong results
or cannot be compiled is not timed. Nothing but the timing itself needs a GPU; tests/benchmarks/tools/test_tune.py runs
the rest with a made-up one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tools.tune_ahead import compile_candidate, without_memory
from protokern.kernels.backends import PRECISIONS
from protokern.kernels.mean_activation import reference as mean_reference
from protokern.kernels.min_distance import reference as nearest_reference
from protokern.kernels.topk_pool import reference as topk_reference
from protokern.kernels.triton_common.configs import (
    MOST_FOR_STRIDED,
    TABLE,
    Config,
    Row,
    forced,
    rows,
    shrink,
    write_rows,
)
from protokern.kernels.triton_common.limits import DeviceLimits, device_limits

OPS = ("min_distance", "topk_distance", "mean_activation")
K = 5
# Batch, depth, grid and prototypes of the tasks of the papers, as in benchmarks/ops/cases.py.
SIZES = (
    (80, 128, 7, 7, 2000),
    (64, 512, 14, 14, 2000),
    (16, 64, 129, 65, 190),
    (80, 256, 28, 28, 202),
)
# Relative error of a distance at the patch that a search took, against the smallest: what its rounding allows.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 1e-1}

WRONG = "WRONG RESULT, not timed"

Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table to be found.

    Attributes:
        op: name of the op.
        precision: of the search.
        size: batch, depth, height, width, prototypes.
    """

    op: str
    precision: str
    size: tuple[int, int, int, int, int]


def candidates(task: Task, limits: DeviceLimits) -> list[Config]:
    """Tiles that the registers and the shared memory of the device have room for."""
    depth = task.size[1]
    element = 2 if task.precision == "bf16" else 4
    wide, whole = (32, 64, 128), max(16, 1 << (depth - 1).bit_length())
    # Path, patches of a tile and channels of a step. What a strided search rounds stays in registers, so its tiles are
    # small.
    shapes = {
        "min_distance": [("operands", wide, sorted({32, 64, whole})), ("strided", (32, 64), [32])],
    }.get(task.op, [("", wide, [32, 64])])
    found = []
    for path, patches, steps in shapes:
        if path == "strided" and task.size[-1] > MOST_FOR_STRIDED:
            continue
        for block_p, block_n, block_d, warps, stages, waves in product(
            (64, 128), patches, steps, (4, 8), (2, 3, 4), (1, 2)
        ):
            config = Config(block_p, block_n, block_d, warps, stages, waves, path)
            if shrink(config, limits, lambda config: _least_shared(config, element)) == config:
                found.append(config)
    return found


def best(
    task: Task,
    inputs: tuple[Tensor, Tensor],
    choices: Iterable[Config],
    timer: Timer,
    call: Callable[[], object] | None = None,
) -> tuple[Config, float]:
    """The fastest of the choices that give right results, and its milliseconds; `call` as for `Trial`.

    Raises:
        RuntimeError: none does.
    """
    trial = Trial(task, inputs, call)
    timed = []
    for config in choices:
        found = trial.milliseconds(config, timer)
        if isinstance(found, str):
            print(f"  {config}: {found}")
        else:
            timed.append((found, config))
    if not timed:
        raise RuntimeError(f"{task}: no tiles give the right result.")
    milliseconds, config = min(timed, key=lambda pair: pair[0])
    return config, milliseconds


class Trial:
    """A task with its inputs and the right answer, for one candidate after the other.

    Args:
        task: what is tuned.
        inputs: features and prototypes.
        call: computes the task on the inputs; None: the kernel.
    """

    def __init__(self, task: Task, inputs: tuple[Tensor, Tensor], call: Callable[[], object] | None = None) -> None:
        self._call, self._is_right = call or _call(task, *inputs), _gate(task, *inputs)

    def milliseconds(self, config: Config, timer: Timer) -> float | str:
        """The time of a call with these tiles, or why there is none: `WRONG`, or the words of the compiler."""
        with forced(config):
            try:
                result = self._call()
            # No room, or what the compiler refuses. What breaks the device breaks all that follows, and ends here.
            except (_triton_error(), RuntimeError) as error:
                return str(error)
            return timer(self._call) if self._is_right(result) else WRONG


def merged(table: Sequence[Row], found: Sequence[Row]) -> list[Row]:
    """The table, with the found rows replacing those for the same problem and architecture."""

    def problem(row: Row) -> tuple[object, ...]:
        return row.op, row.arch, row.dtype, row.precision, row.depth, row.positions, row.prototypes

    replaced = {problem(row) for row in found}
    return [*(row for row in table if problem(row) not in replaced), *found]


def as_row(task: Task, config: Config, limits: DeviceLimits, device_name: str) -> Row:
    """A row of the table."""
    _, depth, height, width, prototypes = task.size
    return Row(task.op, limits.arch, "any", task.precision, depth, height * width, prototypes, config, device_name)


def make_inputs(task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features between 0 and 1, and prototypes of which some are exact patches, as after a push."""
    batch, depth, height, width, num_prototypes = task.size
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(batch, depth, height, width, generator=generator)
    prototypes = torch.rand(num_prototypes, depth, generator=generator)
    copies = min(num_prototypes, batch)
    prototypes[:copies] = features[:copies, :, 0, 0]
    return features.to(device), prototypes.to(device)


def _least_shared(config: Config, element: int) -> int:
    """Shared memory of the tiles in flight; kernels that hold more say so when they are launched."""
    return element * config.block_d * (config.block_p + config.block_n) * (config.stages - 1)


def _call(task: Task, features: Tensor, prototypes: Tensor) -> Callable[[], object]:
    from protokern.kernels.mean_activation import triton_launch as mean_activation
    from protokern.kernels.min_distance import triton_launch as min_distance
    from protokern.kernels.topk_pool import triton_launch as topk_pool

    metric, precision = "sqeuclidean", task.precision
    return {
        "min_distance": lambda: min_distance.min_distance(features, prototypes, metric, precision),
        "topk_distance": lambda: topk_pool.topk_distance(features, prototypes, K, metric, precision),
        "mean_activation": lambda: mean_activation.mean_activation(
            features, prototypes, metric, "log", 1e-4, precision
        ),
    }[task.op]


def _gate(task: Task, features: Tensor, prototypes: Tensor) -> Callable[[object], bool]:
    """Tells whether a result is that of the reference, up to the rounding of the precision."""
    tolerance = TOLERANCE[task.precision]
    metric = "sqeuclidean"
    if task.op == "mean_activation":
        wanted = mean_reference.mean_activation(features, prototypes, metric, "log", 1e-4)
        return lambda result: torch.allclose(result, wanted, rtol=tolerance, atol=tolerance)  # type: ignore[arg-type]
    if task.op == "min_distance":
        wanted = nearest_reference.min_distance(features, prototypes, metric)[0]
    else:
        wanted = topk_reference.topk_distance(features, prototypes, K, metric)[0]
    is_copy = wanted == 0

    def is_right(result: object) -> bool:
        value = result[0]  # type: ignore[index]
        return bool((value[is_copy] == 0).all()) and torch.allclose(value, wanted, rtol=tolerance, atol=tolerance)

    return is_right


def _triton_error() -> type[Exception]:
    from triton.errors import TritonError

    return TritonError


def median_milliseconds(call: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, warmup=5, rep=30, return_mode="median"))


def ahead_call(task: Task) -> Callable[[], object]:
    """The call of a task on tensors without memory."""
    return _call(task, *without_memory(task.size))


def tune(
    tasks: Sequence[Task], device: torch.device, device_name: str, timer: Timer, path: Path = TABLE,
    choices: Callable[[Task, DeviceLimits], list[Config]] = candidates,
    until_compiled: Callable[[Task], object] = lambda task: None,
) -> None:  # fmt: skip
    """Find the best tiles of every task and write them into the table at `path`, one after the other."""
    limits = device_limits(device)
    for task in tasks:
        until_compiled(task)
        config, milliseconds = best(task, make_inputs(task, device), choices(task, limits), timer)
        print(f"{task.op} {task.precision} {task.size}: {milliseconds:.4f} ms with {config}", flush=True)
        rows.cache_clear()
        write_rows(merged(rows(path), [as_row(task, config, limits, device_name)]), path)
    rows.cache_clear()


def main(argv: Sequence[str] | None = None) -> int:
    """Tune what the command line names on the current CUDA device."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="processes that compile")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs: must be at least 1; got {args.jobs}.")
    if not torch.cuda.is_available():
        parser.error("no CUDA device is present; tiles are measured where they are to run.")
    tasks = [Task(*each) for each in product(args.op, args.precision, SIZES)]
    device = torch.device("cuda", torch.cuda.current_device())
    limits = device_limits(device)
    # New processes, not copies of this one: CUDA does not survive a fork.
    pool = ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"))
    try:
        begun = {
            task: [
                pool.submit(compile_candidate, partial(ahead_call, task), one, limits)
                for one in candidates(task, limits)
            ]
            for task in tasks
        }
        tune(
            tasks, device, torch.cuda.get_device_name(), median_milliseconds,
            until_compiled=lambda task: wait(begun[task]),
        )  # fmt: skip
    finally:
        # After an error nobody waits for what has not begun.
        pool.shutdown(cancel_futures=True)
    return 0
