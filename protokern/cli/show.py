"""What a person sees while a command works: a progress bar on a terminal, plain lines elsewhere. All on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from protokern.cli.printing import one_line
from protokern.results.stages import STAGES
from protokern.runs.log import EpochRecord, Notice, StageRecord
from protokern.train.events import BatchRecord, FeatureRecord, Record, StepRecord
from protokern.train.stages import LEARNING

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def show_training(records: Iterable[Record]) -> None:
    """Show a training while it happens."""
    if sys.stdout.isatty():
        _show_on_terminal(records)
        return
    for record in records:
        if isinstance(record, EpochRecord | StageRecord | Notice):
            print(describe(record), flush=True)


def _show_on_terminal(records: Iterable[Record]) -> None:
    with _progress_bar() as progress:
        task = progress.add_task("", total=None, note="")
        for record in records:
            if isinstance(record, StepRecord):
                name = STAGES[record.stage].terminal
                title = f"{name} epoch {record.epoch}" if record.stage in LEARNING else name
                progress.remove_task(task)
                task = progress.add_task(f"{record.position + 1}/{record.steps} {title}", total=None, note="")
            elif isinstance(record, FeatureRecord):
                title = f"features of the {record.split} images"
                progress.update(task, description=title, completed=record.done, total=record.images, note="")
            elif isinstance(record, BatchRecord):
                note = "validation" if record.batch == record.batches else f"loss {record.loss:.3f}"
                progress.update(task, completed=record.batch, total=record.batches, note=note)
            else:
                progress.console.print(describe(record), markup=False, highlight=False, soft_wrap=True)


def show_progress(batches: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Pass batches on, with a bar on a terminal that goes away at the end."""
    if not sys.stdout.isatty():
        yield from batches
        return
    with _progress_bar() as progress:
        task = progress.add_task(title, total=total, note="")
        for batch in batches:
            yield batch
            progress.advance(task)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield progress


def describe(record: EpochRecord | StageRecord | Notice) -> str:
    """A record as one line."""
    if isinstance(record, Notice):
        return one_line(record.text)
    name = STAGES[record.stage].terminal
    if isinstance(record, EpochRecord):
        shown = {term.replace("_", " "): value for term, value in record.terms.items() if term != "l1"}
        terms = ", ".join(f"{term} {value:.4f}" for term, value in shown.items())
        return (
            f"{name} epoch {record.epoch}: loss {record.loss:.4f} ({terms}), "
            f"train {record.accuracy:.1%}, val {record.val_accuracy:.1%}, {record.seconds:.1f} s"
        )
    details = "".join(f", {key.replace('_', ' ')} {value:.4g}" for key, value in record.details.items())
    return (
        f"after {name}, epoch {record.epoch}: val {record.val_accuracy:.1%}, test {record.test_accuracy:.1%}, "
        f"{record.num_prototypes} prototypes{details}"
    )
