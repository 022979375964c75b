"""Accuracies of finished runs: `python -m benchmarks accuracy RUN...` stores them, `--write` fills docs/results.md.

A run speaks for itself: its `run.toml` has the configuration, seed, versions and commit, its `metrics.json` the rest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.commit import ROOT
from benchmarks.ops.machine import cpu_name
from benchmarks.pages.results import RESULTS, Place, append_rows, read_rows
from protokern.config import load_config

ACCURACY = RESULTS / "accuracy.csv"
PAGE = ROOT / "docs" / "results.md"
CONFIGS = ROOT / "examples" / "configs"
PLACE = Place("accuracies", "accuracy")
Read = TypeVar("Read")
# Settings in which a run may differ from its recipe, and what the row is then called besides.
VARIED: dict[tuple[str, str], Callable[[Any], str]] = {
    ("model", "weights"): lambda _: "fine-tuned",
    ("model", "backbone_stage"): lambda stage: f"stage {stage}",
    ("model", "salience"): lambda power: f"salience {power:g}",
    ("model", "salience_stage"): lambda _: "plain salience",
    ("model", "prototypes_per_class"): lambda number: f"{number} a class",
    ("model", "correct_class_weight"): lambda _: "",  # goes with the number
    ("data", "image_size"): lambda side: f"{side} pixels",
}
STAGES = ("joint", "hardening", "push", "live", "last_layer", "prune", "pruned_last_layer")


@dataclass(frozen=True)
class AccuracyRow:
    """What one run reached; accuracies in percent, on the test images unless it says `val`.

    Attributes:
        config: the file of examples/configs that was trained, without its ending, and how the run differs from it, as
            `VARIED` says it, such as ", fine-tuned" where the weights of the backbone came from a file; with ", frozen"
            where an earlier version of the file left the backbone as it was. Or "black box", see
            benchmarks/scenarios/black_box.py.
        joint: before the push, of the last epoch of a model without a push, or of a black box; None for a model that
            makes its choices final before that, or that has no such stage.
        hardening: with those choices final; None for a model that makes none.
        push: None where prototypes live from the start.
        last_layer: None for a black box, or a model without such a stage.
        prune, pruned_last_layer: None without pruning.
        live: after the push or the start; None without live epochs.
        prototypes: left at the end.
        minutes: of training, all stages together.
    """

    config: str
    data: str
    seed: int
    image_size: str
    train_images: int
    test_images: int
    joint: float | None
    hardening: float | None
    push: float | None
    last_layer: float | None
    prune: float | None
    pruned_last_layer: float | None
    val: float
    prototypes: int
    minutes: float
    git_sha: str
    torch_version: str
    device: str
    live: float | None = None


def read_run(folder: Path) -> AccuracyRow:
    """The row of a finished run folder.

    Raises:
        ValueError: its settings are those of none of examples/configs.
    """
    config = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    stages = metrics["stages"]
    ends = ("pruned_last_layer", "last_layer", "prune", "exemplars")
    last = next(stages[f"after_{name}"] for name in ends if f"after_{name}" in stages)
    percent = {name.removeprefix("after_"): round(100 * stage["test"], 2) for name, stage in stages.items()}
    path = config["data"]["path"]
    return AccuracyRow(
        config=recipe_of(config),
        data=Path(path).name if path else "synthetic birds",
        seed=metrics["seed"],
        image_size=str(config["data"]["image_size"]),
        train_images=metrics["images"]["train"],
        test_images=metrics["images"]["test"],
        joint=percent.get("joint", percent.get("exemplars")),
        hardening=percent.get("hardening"),
        push=percent.get("push"),
        last_layer=percent.get("last_layer"),
        prune=percent.get("prune"),
        pruned_last_layer=percent.get("pruned_last_layer"),
        val=round(100 * last["val"], 2),
        prototypes=metrics["prototypes"],
        minutes=round(sum(metrics["seconds"].values()) / 60, 1),
        git_sha=config["made_by"]["git"],
        torch_version=config["made_by"]["torch"],
        device=cpu_name(),
        live=percent.get("live"),
    )


def recipe_of(config: dict[str, Any]) -> str:
    """Name of the file in examples/configs whose settings the run has, whatever its seed, and what VARIED differs.

    Raises:
        ValueError: no file has the other settings, or two files are equally near.
    """
    free = {("train", "seed"), *VARIED}
    found = []
    for path in sorted(CONFIGS.glob("*.toml")):
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        wanted = {(table, key): value for table, values in recipe.items() for key, value in values.items()}
        held = {place: value for place, value in wanted.items() if place not in free}
        if all(config.get(table, {}).get(key) == value for (table, key), value in held.items()):
            given = load_config(path)
            changed = [
                (table, key)
                for table, key in VARIED
                if config[table].get(key) != getattr(getattr(given, table), key, None)
            ]
            if not config["model"].get("salience"):  # then no stage can weigh
                changed = [place for place in changed if place != ("model", "salience_stage")]
            words = [VARIED[table, key](config[table].get(key)) for table, key in changed]
            found.append((len(changed), ", ".join([path.stem, *(word for word in words if word)])))
    nearest = [name for count, name in found if count == min(found)[0]]
    if len(nearest) != 1:
        raise ValueError(f"run.toml: must have the settings of one file in examples/configs; got {nearest or 'none'}.")
    return nearest[0]


def table(rows: Sequence[AccuracyRow]) -> str:
    """The newest row of each recipe, data set and seed, and the mean over the seeds."""
    newest = {(row.config, row.data, row.seed): row for row in rows}
    lines = [
        "| recipe | data | seed | joint | hardening | push | live | last layer | prune | last layer again | prototypes "
        "| minutes | commit |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for config, data in dict.fromkeys((row.config, row.data) for row in newest.values()):
        found = (row for row in newest.values() if (row.config, row.data) == (config, data))
        group = sorted(found, key=lambda row: row.seed)
        for row in group:
            accuracies = [percent(getattr(row, stage)) for stage in STAGES]
            cells = [
                f"`{config}`",
                data,
                str(row.seed),
                *accuracies,
                str(row.prototypes),
                f"{row.minutes:.0f}",
                row.git_sha,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if len(group) > 1:
            means = [[getattr(row, stage) for row in group] for stage in STAGES]
            cells = [percent(None if None in values else statistics.mean(values)) for values in means]
            bold = " | ".join(f"**{cell}**" if cell else "" for cell in cells)
            lines.append(f"| **mean** | {data} | {len(group)} seeds | {bold} | | | |")
    devices = ", ".join(dict.fromkeys(f"{row.device} with torch {row.torch_version}" for row in newest.values()))
    return "\n".join([*lines, "", f"Trained on two cores: {devices}."])


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def rows_of(parser: argparse.ArgumentParser, read: Callable[[Path], Read], runs: Sequence[Path]) -> list[Read]:
    """What `read` makes of every run; one that it cannot read ends the command with a line, before a row is stored."""
    rows = []
    for run in runs:
        try:
            rows.append(read(run))
        except FileNotFoundError as error:
            parser.error(f"RUN: must be a finished run; got {run}, which has no {Path(error.filename).name}.")
        except ValueError as error:
            parser.error(f"{run}: {error}")
    return rows


def from_results() -> str:
    return table(read_rows(ACCURACY, AccuracyRow))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders to store")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args(argv)
    append_rows(ACCURACY, rows_of(parser, read_run, arguments.runs))
    print(from_results())
    if arguments.write:
        PLACE.write(PAGE, from_results())
    return 0
