"""Progress of a command: a bar on a terminal, plain lines elsewhere. All of it goes to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from protokern.inputs.stores import FeatureRecord
from protokern.results.progress import Item, Progress
from protokern.results.stages import STAGES
from protokern.runs.log import EpochRecord, Notice, StageRecord
from protokern.storage.names import one_line
from protokern.train.events import BatchDone, Event, RunStopped, StepBegins
from protokern.train.forecast import Forecast
from protokern.train.stages import LEARNING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def show_training(events: Iterable[Event]) -> RunStopped | None:
    """Show a training while it runs; return where it stopped if a stop was requested."""
    if sys.stdout.isatty():
        return _show_on_terminal(events)
    stopped, begun, slow = None, None, _SlowWork()
    for event in events:
        if isinstance(event, EpochRecord | StageRecord | Notice):
            print(describe(event), flush=True)
            slow.spoke()
        elif isinstance(event, RunStopped):
            stopped = event
        elif isinstance(event, StepBegins):
            begun = event
        elif isinstance(event, FeatureRecord):
            slow.note(_title_of(event), event.done, event.images)
        elif begun is not None:
            slow.note(STAGES[begun.stage].terminal, *_count(begun, event))
    return stopped


def _show_on_terminal(events: Iterable[Event]) -> RunStopped | None:
    stopped, begun = None, None
    with _progress_bar() as progress:
        task = progress.add_task("", total=None, note="")
        for event in events:
            if isinstance(event, StepBegins):
                # One bar for all epochs of a stage, so that its time left is that of the stage.
                if begun is None or event.done == 0:
                    progress.remove_task(task)
                    task = progress.add_task("", total=None, note="")
                begun = event
                progress.update(task, description=f"{event.position + 1}/{event.steps} {_title_of(event)}", note="")
            elif isinstance(event, FeatureRecord):
                progress.update(task, description=_title_of(event), completed=event.done, total=event.images, note="")
            elif isinstance(event, BatchDone):
                note = "validation" if event.batch == event.batches else f"loss {event.loss:.3f}"
                done, total = (event.batch, event.batches) if begun is None else _count(begun, event)
                progress.update(task, completed=done, total=total, note=note)
            elif isinstance(event, RunStopped):
                stopped = event
            else:
                progress.console.print(describe(event), markup=False, highlight=False, soft_wrap=True)
    return stopped


def _title_of(event: StepBegins | FeatureRecord) -> str:
    if isinstance(event, FeatureRecord):
        return f"features of the {event.split} images"
    name = STAGES[event.stage].terminal
    return f"{name} epoch {event.epoch}" if event.stage in LEARNING else name


def _count(begun: StepBegins, event: BatchDone) -> tuple[int, int]:
    """Batches done, and batches in all, of the epochs of a stage."""
    return begun.done * event.batches + event.batch, begun.together * event.batches


class _SlowWork:
    """Lines about work that takes long, where there is no terminal, `EVERY` seconds after the line before."""

    EVERY = 5.0

    def __init__(self) -> None:
        self._title = ""
        self._first = 0
        self._begun = self._told = time.monotonic()

    def note(self, title: str, done: int, total: int) -> None:
        """So much of the work of this title is done."""
        now = time.monotonic()
        if title != self._title:
            self._title, self._first, self._begun = title, done, now
        elif now - self._told >= self.EVERY and done > self._first:
            left = (now - self._begun) / (done - self._first) * (total - done)
            print(f"{title}: {done:,} of {total:,}, {in_words(left)} left", flush=True)
            self._told = now

    def spoke(self) -> None:
        """Another line was printed."""
        self._told = time.monotonic()


def in_words(seconds: float) -> str:
    """A duration that is not known exactly."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 99.5:
        return f"about {seconds:.0f} s" if seconds < 10 else f"about {5 * round(seconds / 5)} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5370 else f"about {seconds / 3600:.1f} h"


def describe_forecast(known: Forecast) -> str:
    """The plan of a training, in a line."""
    return "plan: " + ", ".join(f"{part.name} {in_words(part.seconds)}" for part in known.parts)


def marked(warnings: Iterable[str]) -> list[str]:
    """Warnings as lines of a log or a terminal."""
    return [f"warning: {warning}" for warning in warnings]


def show_progress(batches: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Pass batches on; a bar on a terminal shows the progress and disappears, elsewhere a line every five seconds."""
    return _show(batches, title, total, _SlowWork())


def progress_in_turn() -> Progress:
    """`show_progress` for pieces of work in turn: many short ones together give a line every five seconds too."""
    slow = _SlowWork()

    def show(batches: Iterable[Item], title: str, total: int, /) -> Iterator[Item]:
        return _show(batches, title, total, slow)

    return show


def _show(batches: Iterable[Item], title: str, total: int, slow: _SlowWork) -> Iterator[Item]:
    if not sys.stdout.isatty():
        for done, batch in enumerate(batches):
            slow.note(title, done, total)
            yield batch
        return
    with _progress_bar() as progress:
        task = progress.add_task(title, total=total, note="")
        for batch in batches:
            yield batch
            progress.advance(task)


@contextmanager
def _progress_bar() -> Iterator[Bar]:
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
