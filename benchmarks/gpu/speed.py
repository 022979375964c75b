"""Stage c: the comparisons of README and of the targets, and memory; the most important first, each stored at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cache
from io import StringIO

import torch

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.smoke_table import broken
from benchmarks.gpu.worker import Result
from benchmarks.ops.cases import CASES, FULL, Point
from benchmarks.ops.cuda import Cuda, open_cuda
from benchmarks.ops.devices import Cpu, Device
from benchmarks.ops.memory import make_row as make_memory_row
from benchmarks.ops.memory import measure_apart, measure_on_cuda
from benchmarks.ops.point import Plan, run_point
from benchmarks.ops.providers import COMPILED, PRECISIONS, first_line
from benchmarks.ops.run import our_backends
from benchmarks.pages.show import show_missing, show_rows
from benchmarks.pages.targets import CUDA_MEMORY_CASE
from benchmarks.tools.tune_ahead import compile_ahead
from protokern.kernels.mean_activation import triton_backward as mean_backward
from protokern.kernels.mean_activation import triton_launch as mean_activation
from protokern.kernels.min_distance import triton_backward
from protokern.kernels.min_distance import triton_launch as min_distance
from protokern.kernels.topk_pool import triton_launch as topk_pool
from protokern.kernels.triton_common.limits import KNOWN_LIMITS, DeviceLimits, device_limits

PEERS = ("original", "matmul", "mm", "mm+min")
# Rows of the README and of the targets: row 1 and its graph, training, the floors, then the rest.
FIRST = (
    ("cub200", "fwd"), ("cub200", "full"), ("resnet14", "full"), ("resnet14", "fwd"), ("vit16", "fwd"),
    ("imagenet14", "fwd"), ("segment190", "fwd"), ("pool202", "fwd"), ("imagenet14", "full"), ("vit16", "full"),
    ("segment190", "full"), ("pool202", "full"),
)  # fmt: skip
WITH_COMPILE = ("cub200", "resnet14", "vit16", "imagenet14", "pool202", "segment190")
OTHERS = (("prototype_pool", "cub200"), ("mean_activation", "pool202"), ("topk_pool", "cub200"))
# Of one comparison: its own time, and that with what compiles.
SECONDS, SECONDS_COMPILED = 2.0, 1.5
# In a rehearsal.
TINY_SECONDS = 0.05


def points(rehearse: bool) -> list[tuple[Point, tuple[str, ...]]]:
    """What is compared, and with whom. One that comes again has more peers, and takes the place of the first."""
    if rehearse:
        return [(Point("min_distance", "tiny", mode), PEERS) for mode in ("fwd", "full")]
    first = [(Point("min_distance", case, mode), PEERS) for case, mode in FIRST]
    compiled = [(Point("min_distance", case, "full"), (*PEERS, COMPILED)) for case in WITH_COMPILE]
    others = [(Point(op, case, mode), PEERS) for op, case in OTHERS for mode in ("fwd", "full")]
    return [*first, *compiled, *others]


def measure_units(settings: Settings, records: Records) -> list[Unit]:
    """After the first four the memory of what matters most; backends that crashed in the smoke stage take no part."""
    without = broken(records.get("smoke", {}))
    found: list[Unit] = []
    for point, peers in points(settings.rehearse):
        name = f"{point.op} {point.mode} {point.case}" + (" with torch.compile" if COMPILED in peers else "")
        unit = {"name": name, "op": point.op, "case": point.case, "mode": point.mode, "peers": list(peers)}
        found.append({**unit, "without": without.get(point.op, [])})
    case = "tiny" if settings.rehearse else CUDA_MEMORY_CASE
    ours = [(name, precision) for name in ("triton", "native") for precision in PRECISIONS]
    if settings.rehearse:
        ours = [("native", "fp32")]
    known_bad = without.get("min_distance", [])
    memory: list[Unit] = [
        {"name": f"memory {name} {precision}", "provider": name, "precision": precision, "case": case}
        for name, precision in (("original", "fp32" if settings.rehearse else "tf32"), *ours)
        if name not in known_bad
    ]
    return [*found[:4], *memory[:2], *found[4:12], *memory[2:], *found[12:]]


@cache
def device_of(rehearse: bool) -> Device:
    return Cpu() if rehearse else open_cuda()


def measure(unit: Unit, settings: Settings) -> Result:
    device = device_of(settings.rehearse)
    return measure_memory(unit, device) if "provider" in unit else measure_point(unit, device, settings)


def measure_point(unit: Unit, device: Device, settings: Settings) -> Result:
    able, _ = our_backends(device.kind)
    backends = [name for name in able if name != "reference" and name not in unit["without"]]
    seconds = SECONDS_COMPILED if COMPILED in unit["peers"] else SECONDS
    plan = Plan(
        backends=backends,
        peers=list(unit["peers"]),
        precisions=["fp32"] if settings.rehearse else list(PRECISIONS),
        seconds=TINY_SECONDS if settings.rehearse else seconds,
        least=3,
    )
    outcome = run_point(device.describe(), device, plan, Point(unit["op"], unit["case"], unit["mode"]))
    device.release()
    said = StringIO()
    with redirect_stdout(said):
        show_rows(outcome.rows)
        show_missing(outcome.missing, outcome.wrong)
    status = "wrong" if outcome.wrong else "measured"
    return Result(status=status, text=said.getvalue().rstrip(), tables={"speed": [asdict(row) for row in outcome.rows]})


def measure_memory(unit: Unit, device: Device) -> Result:
    case, name, precision = CASES[unit["case"]], unit["provider"], unit["precision"]
    device.release()
    try:
        if isinstance(device, Cuda):
            extra = measure_on_cuda(device.driver, name, precision, case)
        else:
            extra = measure_apart(name, precision, case)
    # Not built, not in this precision, or no room for the maps of an unfused method.
    except (RuntimeError, ValueError) as error:
        return Result(status="missing", text=first_line(error))
    row = make_memory_row(device.describe(), (name, precision), case, extra, 0.0)
    return Result(status="measured", text=f"{row.extra_mb:.2f} MB", tables={"memory": [asdict(row)]})


def prepare_units(settings: Settings, records: Records) -> list[Unit]:
    """The launches of all comparisons, so that the one process that measures finds them compiled."""
    chosen = ["cub200"] if settings.rehearse else [case.name for case in FULL]
    precisions = ("tf32",) if settings.rehearse else PRECISIONS
    searches = [("min_distance", case, precision) for precision in precisions for case in chosen]
    backward = [("min_distance_backward", case, "") for case in chosen]
    others = [] if settings.rehearse else [
        *(("mean_activation", "pool202", precision) for precision in precisions),
        ("mean_activation_backward", "pool202", ""),
        *(("topk_distance", "cub200", precision) for precision in precisions),
    ]  # fmt: skip
    return [
        {"name": f"{op} {case} {precision}".strip(), "op": op, "case": case, "precision": precision}
        for op, case, precision in (*searches[: len(chosen)], *backward, *searches[len(chosen) :], *others)
    ]


def prepare(unit: Unit, settings: Settings) -> Result:
    begun = time.monotonic()
    said = compile_ahead(launches(unit), limits_here(settings.rehearse))
    if said:
        return Result(status="crashed", text=said[:300])
    return Result(status="done", data={"seconds": round(time.monotonic() - begun, 1)})


def limits_here(rehearse: bool) -> DeviceLimits:
    """Of the device; in a rehearsal those of an H200, for which a made-up driver lets Triton compile."""
    if not rehearse:
        return device_limits(torch.device("cuda", 0))
    from benchmarks.gpu.made_up_driver import activate

    activate()
    return KNOWN_LIMITS[90]


def launches(unit: Unit) -> Callable[[], object]:
    """A call that makes them, on tensors without memory."""
    case = CASES[unit["case"]]
    features = torch.empty((case.images, case.depth, case.height, case.width), device="meta")
    prototypes = torch.empty((case.prototypes, case.depth), device="meta")
    grad = torch.empty((case.images, case.prototypes), device="meta")
    patch = torch.empty(grad.shape, dtype=torch.int64, device="meta")
    pair, metric, precision = (features, prototypes), "sqeuclidean", unit["precision"]
    calls: dict[str, Callable[[], object]] = {
        "min_distance": lambda: min_distance.min_distance(*pair, metric, precision),
        "min_distance_backward": lambda: triton_backward.min_distance_backward(grad, *pair, patch, metric, True, True),
        "mean_activation": lambda: mean_activation.mean_activation(*pair, metric, "log", 1e-4, precision),
        "mean_activation_backward": lambda: mean_backward.mean_activation_backward(
            grad, *pair, metric, "log", 1e-4, True, True
        ),
        "topk_distance": lambda: topk_pool.topk_distance(*pair, 5, metric, precision),
    }
    return calls[unit["op"]]
