"""Progress of a command: a bar on a terminal, plain lines elsewhere. All of it goes to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from protokern.inputs.stores import FeatureRecord
from protokern.results.stages import STAGES
from protokern.runs.log import EpochRecord, Notice, StageRecord
from protokern.storage.names import one_line
from protokern.train.events import BatchDone, Event, RunStopped, StepBegins
from protokern.train.stages import LEARNING

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def show_training(events: Iterable[Event]) -> RunStopped | None:
    """Show a training while it runs; return where it stopped if a stop was requested."""
    if sys.stdout.isatty():
        return _show_on_terminal(events)
    stopped = None
    for event in events:
        if isinstance(event, EpochRecord | StageRecord | Notice):
            print(describe(event), flush=True)
        elif isinstance(event, RunStopped):
            stopped = event
    return stopped


def _show_on_terminal(events: Iterable[Event]) -> RunStopped | None:
    stopped = None
    with _progress_bar() as progress:
        task = progress.add_task("", total=None, note="")
        for event in events:
            if isinstance(event, StepBegins):
                name = STAGES[event.stage].terminal
                title = f"{name} epoch {event.epoch}" if event.stage in LEARNING else name
                progress.remove_task(task)
                task = progress.add_task(f"{event.position + 1}/{event.steps} {title}", total=None, note="")
            elif isinstance(event, FeatureRecord):
                title = f"features of the {event.split} images"
                progress.update(task, description=title, completed=event.done, total=event.images, note="")
            elif isinstance(event, BatchDone):
                note = "validation" if event.batch == event.batches else f"loss {event.loss:.3f}"
                progress.update(task, completed=event.batch, total=event.batches, note=note)
            elif isinstance(event, RunStopped):
                stopped = event
            else:
                progress.console.print(describe(event), markup=False, highlight=False, soft_wrap=True)
    return stopped


def marked(warnings: Iterable[str]) -> list[str]:
    """Warnings as lines of a log or a terminal."""
    return [f"warning: {warning}" for warning in warnings]


def show_progress(batches: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Pass batches on; on a terminal a bar shows the progress and disappears at the end."""
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
    """A record of the log as one line."""
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
