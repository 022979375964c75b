"""What the scenarios share: their flags, the start of a run, turns, and the columns that every row of theirs has.

A scenario is one file here: a `main` that takes its flags, calls `begin`, measures within `watch_others`, and appends
rows that start with `columns`. CONTRIBUTING.md says what else a new one needs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.commit import ROOT
from benchmarks.ops import gate
from benchmarks.ops.machine import Machine, OtherWork, describe, settle
from benchmarks.ops.timing import Timing
from protokern.backbones import build_backbone
from protokern.models import ProtoPNet


def flags(verb: str, text: str, out: Path) -> argparse.ArgumentParser:
    """A parser with what every scenario takes: how long it waits, and where its rows go."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {verb}", description=text)
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=out, help="CSV file that rows are added to")
    return parser


def photo_flags(parser: argparse.ArgumentParser, folders: str = "train/<class>/*.jpg") -> None:
    """Photographs, and a network for them."""
    parser.add_argument("--data", type=Path, help=f"folder with {folders}; default: synthetic birds")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, square")
    parser.add_argument("--prototypes-per-class", type=int, default=10)


def photo_model(arguments: argparse.Namespace, num_classes: int) -> ProtoPNet:
    """The network that `photo_flags` describe, in evaluation mode; its head is always the same."""
    torch.manual_seed(0)
    backbone = build_backbone(arguments.backbone, weights=arguments.weights)
    return ProtoPNet(
        backbone, num_classes, prototypes_per_class=arguments.prototypes_per_class, image_size=arguments.image_size
    ).eval()


def evenly(length: int, limit: int | None) -> list[int]:
    """All of so many positions, or `limit` of them evenly spaced."""
    count = length if limit is None else min(limit, length)
    return [index * length // count for index in range(count)]


def begin(arguments: argparse.Namespace, *tests: str) -> Machine:
    """Pass the gate of the tests (paths below tests/), wait for a quiet machine, and look at it before any work."""
    if tests:
        gate.require_green([ROOT / "tests" / name for name in tests])
    settle(arguments.settle)
    return describe()


def columns(machine: Machine, others: OtherWork) -> dict[str, Any]:
    """What every row of a scenario says of its circumstances."""
    return {**asdict(machine), "others": round(others.cores, 2), "threads": torch.get_num_threads()}


def time_columns(timing: Timing, digits: int = 4) -> dict[str, Any]:
    percentiles = {"p20_ms": timing.p20, "p50_ms": timing.p50, "p80_ms": timing.p80}
    return {"rounds": timing.rounds} | {name: round(value, digits) for name, value in percentiles.items()}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in each round; every other round they come in the opposite order."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        order: Sequence[str] = list(calls) if index % 2 == 0 else list(calls)[::-1]
        for name in order:
            taken[name].append(seconds(calls[name]))
    return taken
