"""The stages of a run and their limits, as data. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# What a unit is handed: JSON, with a "name" that no other unit of its phase has.
Unit = dict[str, Any]
# What is known of the units so far: phase, name of the unit, record.
Records = Mapping[str, Mapping[str, "Record"]]
MINUTES = 9.0
# Part of the whole time, reserved for the summary.
LAST_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a whole run, given to every unit.

    Attributes:
        rehearse: the processor plays the device, on tiny sizes, and nothing is stored for good.
        commit: what rows carry.
        home: the folder of the results and of the state.
    """

    rehearse: bool = False
    commit: str = "unknown"
    home: str = "build/gpu"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of a unit.

    Attributes:
        status: one of DONE, "missing" for what cannot run here, or one of FAILED.
        tries: how often it was begun, over all calls.
        data: what later phases and the summary need.
    """

    status: str
    text: str
    tries: int
    data: dict[str, Any]


# Not done again.
DONE = ("right", "wrong", "measured", "done")
# Begun again once, after all others. "cut": the time of its phase was up.
FAILED = ("crashed", "overran", "cut")
MOST_TRIES = 2


class Lists(Protocol):
    """Lists the units of a phase, the most important first."""

    def __call__(self, settings: Settings, records: Records) -> list[Unit]: ...


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Units of one kind.

    Attributes:
        units: "module:function", a `Lists`.
        work: "module:function" that takes a unit and the settings and returns a `Result`; runs in workers.
        seconds: of the stage's time, at most.
        unit_seconds: a unit that takes longer is ended.
        parallel: on all cores; else in one process, alone.
        interpreted: in a rehearsal Triton's interpreter runs the kernels.
        always: in every call, done or not.
        report: "module:function" that makes a table of the records of the phase; empty for none.
    """

    name: str
    units: str
    work: str
    seconds: float
    unit_seconds: float
    parallel: bool = False
    interpreted: bool = False
    always: bool = False
    report: str = ""


@dataclass(frozen=True)
class Stage:
    """Phases under one limit; the last of them takes what the others leave."""

    letter: str
    title: str
    seconds: float
    phases: tuple[Phase, ...]


def _phase(
    name: str,
    module: str,
    function: str,
    seconds: float,
    unit_seconds: float,
    *,
    parallel: bool = False,
    interpreted: bool = False,
    always: bool = False,
    report: str = "",
) -> Phase:
    work = f"benchmarks.gpu.{module}"
    return Phase(
        name=name,
        units=f"{work}:{function}_units",
        work=f"{work}:{function}",
        seconds=seconds,
        unit_seconds=unit_seconds,
        parallel=parallel,
        interpreted=interpreted,
        always=always,
        report=report,
    )


DEVICE = "device"
STAGES = (
    Stage(
        "a",
        "environment, build, import, doctor",
        60,
        (
            _phase(DEVICE, "environment", "look", 60, 60, always=True),
            _phase("environment", "environment", "prepare", 60, 60, always=True),
        ),
    ),
    Stage(
        "b",
        "smoke: every op, backend and dtype against float64",
        90,
        (
            _phase(
                "smoke",
                "smoke",
                "check",
                90,
                40,
                parallel=True,
                interpreted=True,
                report="benchmarks.gpu.smoke_table:smoke_table",
            ),
        ),
    ),
    Stage(
        "c",
        "speed and memory with the tiles of the table",
        150,
        (
            _phase("compile", "speed", "prepare", 45, 40, parallel=True),
            _phase("speed", "speed", "measure", 150, 60),
        ),
    ),
    Stage(
        "d",
        "tiles of the five cases that matter most",
        150,
        (
            _phase("candidates", "tiles", "prepare", 70, 40, parallel=True),
            _phase("tiles", "tiles", "measure", 70, 30, interpreted=True),
            _phase("choice", "tiles", "store", 150, 20),
        ),
    ),
    Stage(
        "e",
        "training, push and search on the device",
        60,
        (_phase("networks", "networks", "measure", 60, 40, interpreted=True),),
    ),
    Stage("f", "the rest of the tests", 540, (_phase("tests", "battery", "test", 540, 300, always=True),)),
)
SUMMARY = _phase("summary", "summary", "tell", LAST_SECONDS, LAST_SECONDS, always=True)
