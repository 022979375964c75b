"""The edits of a run while its page is open: what `protokern edit` does, one edit at a time, kept in the run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from protokern.edits.bench import Bench, EditedNet
from protokern.edits.history import EDITS_FILE, Counted, append_entry, read_history, settle
from protokern.edits.records import EditError, Entry, Forbid, Redo, Undo
from protokern.errors import CheckpointError, ProtokernError
from protokern.storage.lock import is_locked, lock_run

BUSY = "Another program writes into this run, perhaps a training. Edits have to wait until it is done."
PATIENCE = 3.0  # seconds that an edit waits for another page
LONGEST_REASON = 2_000  # letters
_AGAIN = 0.02  # seconds between questions for the lock


class StaleError(ProtokernError):
    """A page wants to undo what it has not seen."""


class Editor:
    """The history of a run, in its `edits.jsonl`, and the net after it.

    An edit counts once its line is on the disk: it is tried first, so a line that does not fit the net is never
    written. Several processes may add edits to one run, in turn.

    Args:
        bench: of the run.

    Raises:
        CheckpointError: the history is broken.
        EditError: it does not fit the net.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.path: Path = bench.run.folder / EDITS_FILE
        self._stamp = self._stamp_now()
        self.entries: list[Entry] = read_history(self.path)
        self.net: EditedNet = bench.apply(settle(self.entries))

    @property
    def revision(self) -> int:
        """How many lines the history has."""
        return len(self.entries)

    @property
    def edits(self) -> list[Counted]:
        """All edits, and which of them count."""
        return settle(self.entries)

    @property
    def can_undo(self) -> bool:
        """Whether an edit counts."""
        return any(one.counts for one in self.edits)

    @property
    def can_redo(self) -> bool:
        """Whether an edit could count again."""
        return _counting(settle([*self.entries, Redo()])) != _counting(self.edits)

    @property
    def busy(self) -> str:
        """Why nothing can be edited now; empty if it can be."""
        try:
            return BUSY if is_locked(self.bench.run.folder) else ""
        except OSError as error:
            return f"The run cannot be locked ({error.strerror})."

    def refresh(self) -> bool:
        """Take over what other processes have added; return whether that was anything."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return False
        entries = read_history(self.path)
        self.net = self.bench.apply(settle(entries))
        self.entries, self._stamp = entries, stamp
        return True

    def _stamp_now(self) -> tuple[int, int, int] | None:
        """Tells one state of the file from another; None: there is none."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def act(self, entry: Entry, revision: int) -> None:
        """Try an entry, write it, and keep its net.

        Args:
            entry: an edit, or an undo or a redo.
            revision: the history that the page showed; only what takes an edit back, or back again, must have seen all.

        Raises:
            EditError: it does not fit the net, nothing can be undone or redone, or another process writes into the run.
            StaleError: the history has grown since.
            CheckpointError: the history is broken, or the disk is full.
        """
        if isinstance(entry, Forbid) and len(entry.reason) > LONGEST_REASON:
            raise EditError(
                f"reason: must have at most {LONGEST_REASON} letters; got {len(entry.reason)}. Say it in fewer."
            )
        with turn_of(self.bench.run.folder):
            self.refresh()
            if isinstance(entry, Undo | Redo):
                self._check_step(entry, revision)
            entries = [*self.entries, entry]
            net = self.bench.apply(settle(entries))
            append_entry(self.path, entry)
            self.entries, self.net, self._stamp = entries, net, self._stamp_now()

    def _check_step(self, entry: Undo | Redo, revision: int) -> None:
        if revision != self.revision:
            raise StaleError(
                "The edits were changed on another page, and nothing was undone. See the newest ones first."
            )
        if not (self.can_undo if isinstance(entry, Undo) else self.can_redo):
            raise EditError(f"There is nothing to {entry.kind}.")


@contextmanager
def turn_of(folder: Path) -> Iterator[None]:
    """The lock of a run; another page has it for no longer than an edit takes, and is waited for.

    Raises:
        EditError: another process keeps it.
        CheckpointError: the run cannot be locked.
    """
    end = time.monotonic() + PATIENCE
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock_run(folder))
                break
            except CheckpointError as error:
                if time.monotonic() < end:
                    time.sleep(_AGAIN)
                elif _is_taken(folder):
                    raise EditError(BUSY) from error
                else:
                    raise
        yield


def _is_taken(folder: Path) -> bool:
    try:
        return is_locked(folder)
    except OSError:
        return False


def open_editor(bench: Bench) -> Editor:
    """The editor of a run; an EditError says in a sentence why its history cannot be taken up."""
    try:
        return Editor(bench)
    except (EditError, CheckpointError) as error:
        raise EditError(f"The edits of this run cannot be taken up: {error}") from error


def _counting(edits: Sequence[Counted]) -> list[bool]:
    return [one.counts for one in edits]
