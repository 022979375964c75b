"""Stage d: tiles of the cases that matter most: compiled on all cores, timed one after the other, the best stored."""

from __future__ import annotations

import time
from dataclasses import asdict, astuple
from functools import cache, lru_cache, partial
from math import log2

import torch

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.speed import limits_here
from benchmarks.gpu.worker import Result
from benchmarks.ops.cases import CASES
from benchmarks.ops.cuda import ask_nvidia_smi
from benchmarks.tools.tune import (
    WRONG,
    Task,
    Timer,
    Trial,
    ahead_call,
    as_row,
    candidates,
    make_inputs,
    median_milliseconds,
    merged,
)
from benchmarks.tools.tune_ahead import compile_candidate
from protokern.kernels.triton_common import configs
from protokern.kernels.triton_common.configs import Config, row_for
from protokern.kernels.triton_common.limits import KNOWN_LIMITS, DeviceLimits

# Row 1, the floors of arithmetic in both precisions, and those of memory.
CASES_TO_TUNE = (
    ("tf32", "cub200"), ("tf32", "resnet14"), ("bf16", "resnet14"), ("bf16", "pool202"), ("bf16", "segment190"),
)  # fmt: skip
TINY_CASES = (("fp32", "tiny"),)
# Of each case, those nearest to the tiles it has now.
MOST, MOST_TINY = 36, 2


def tasks(rehearse: bool) -> dict[str, Task]:
    """By a name that people read."""
    found = {}
    for precision, name in TINY_CASES if rehearse else CASES_TO_TUNE:
        case = CASES[name]
        size = (case.images, case.depth, case.height, case.width, case.prototypes)
        found[f"min_distance {precision} {name}"] = Task("min_distance", precision, size)
    return found


def present(task: Task, limits: DeviceLimits) -> Config:
    """The tiles that the table has for a task now."""
    _, depth, height, width, prototypes = task.size
    return row_for(task.op, limits.arch, torch.float32, task.precision, depth, height * width, prototypes).config


def to_try(task: Task, limits: DeviceLimits, most: int) -> list[Config]:
    """The tiles of the table first, then the candidates that are the fewest doublings away from them."""
    now = present(task, limits)

    def doublings(config: Config) -> float:
        pairs = zip(astuple(config)[:5], astuple(now)[:5], strict=True)
        return sum(abs(log2(one / other)) for one, other in pairs) + (config.path != now.path)

    # How often a grid is split decides no machine code, and little else: it stays as it is.
    others = [one for one in candidates(task, limits) if one.waves == now.waves and one != now]
    return [now, *sorted(others, key=doublings)[: most - 1]]


def words(config: Config) -> str:
    return "-".join(str(value) for value in astuple(config) if value != "")


def prepare_units(settings: Settings, records: Records) -> list[Unit]:
    """The nearest candidates of every case before the others of any."""
    limits = KNOWN_LIMITS[90] if settings.rehearse else limits_by_name()
    most = MOST_TINY if settings.rehearse else MOST
    tried = {name: to_try(task, limits, most) for name, task in tasks(settings.rehearse).items()}
    return [
        {"name": f"{name} {words(configs[index])}", "task": name, "config": asdict(configs[index])}
        for index in range(most)
        for name, configs in tried.items()
        if index < len(configs)
    ]


def limits_by_name() -> DeviceLimits:
    """Of the device, asked without opening it here: this process only hands out."""
    answer = ask_nvidia_smi("compute_cap")
    arch = int(answer.replace(".", "")) if answer else 90
    return KNOWN_LIMITS.get(arch, KNOWN_LIMITS[90])


def prepare(unit: Unit, settings: Settings) -> Result:
    begun = time.monotonic()
    task, config = tasks(settings.rehearse)[unit["task"]], Config(**unit["config"])
    said = compile_candidate(partial(ahead_call, task), config, limits_here(settings.rehearse))
    return Result(status="done", data={"refused": said[:200], "seconds": round(time.monotonic() - begun, 1), **unit})


def measure_units(settings: Settings, records: Records) -> list[Unit]:
    """What was compiled, case by case."""
    compiled = [one.data for one in records.get("candidates", {}).values() if one.status == "done"]
    return [
        {"name": data["name"], "task": data["task"], "config": data["config"]}
        for name in tasks(settings.rehearse)
        for data in compiled
        if data["task"] == name and not data["refused"]
    ]


@lru_cache(maxsize=1)
def trial_of(task: Task, device: torch.device) -> Trial:
    return Trial(task, make_inputs(task, device))


def measure(unit: Unit, settings: Settings) -> Result:
    task, config = tasks(settings.rehearse)[unit["task"]], Config(**unit["config"])
    device = torch.device("cpu" if settings.rehearse else "cuda")
    found = trial_of(task, device).milliseconds(config, timer(settings.rehearse))
    if found == WRONG:
        return Result(status="wrong", text=WRONG)
    if isinstance(found, str):
        return Result(status="missing", text=found[:200])
    return Result(status="measured", data={"ms": found, "task": unit["task"], "config": unit["config"]})


@cache
def timer(rehearse: bool) -> Timer:
    """The interpreter's time means nothing, and nothing is done with it but to have one."""
    if not rehearse:
        return median_milliseconds

    def once(call: object) -> float:
        begun = time.perf_counter()
        call()  # type: ignore[operator]
        return 1e3 * (time.perf_counter() - begun)

    return once


def store_units(settings: Settings, records: Records) -> list[Unit]:
    """A case for which something was timed; again when more of it was."""
    units: list[Unit] = []
    for name in tasks(settings.rehearse):
        timed = [
            (one.data["ms"], one.data["config"])
            for one in records.get("tiles", {}).values()
            if one.status == "measured" and one.data["task"] == name
        ]
        if timed:
            units.append({"name": f"{name}: best of {len(timed)}", "task": name, "timed": timed})
    return units


def store(unit: Unit, settings: Settings) -> Result:
    """Put the quickest tiles into the table that users run with; a rehearsal only says which."""
    task = tasks(settings.rehearse)[unit["task"]]
    limits = limits_here(settings.rehearse)
    now = present(task, limits)
    timed = [(milliseconds, Config(**config)) for milliseconds, config in unit["timed"]]
    milliseconds, config = min(timed, key=lambda pair: pair[0])
    before = next((time for time, one in timed if one == now), None)
    device = "the processor (rehearsal)" if settings.rehearse else torch.cuda.get_device_name()
    row = as_row(task, config, limits, f"measured on {device}")
    if not settings.rehearse:
        configs.write_rows(merged(configs.rows(), [row]))
        configs.rows.cache_clear()
        configs.row_for.cache_clear()
    columns = dict(zip(configs.COLUMNS, configs.line_of(row), strict=True))
    told = {"ms": round(milliseconds, 5), "ms_before": "" if before is None else round(before, 5)}
    told |= {"commit": settings.commit, "clocks": ask_nvidia_smi("clocks.sm,clocks.mem").replace(",", " and")}
    text = f"{milliseconds:.4g} ms with {words(config)}" + ("" if before is None else f", {before:.4g} ms before")
    return Result(status="done", text=text, tables={"tiles": [columns | told]})
