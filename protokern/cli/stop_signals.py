"""Signals that ask a training to stop: it finishes its batch and writes a checkpoint first."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)
_SAME_CALL = 5.0  # seconds within which two Ctrl-C to several processes count as one


class StopRequest:
    """A request to stop soon, made by Ctrl-C or by SIGTERM, with which schedulers stop a job."""

    def __init__(self) -> None:
        self._first_signal: int | None = None
        self._made_at = 0.0
        self._is_met = False

    def is_made(self) -> bool:
        """Whether a stop was requested."""
        return self._first_signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal, as in shells; that of Ctrl-C if another process got the signal."""
        return 128 + (self._first_signal or signal.SIGINT)

    def meet(self) -> None:
        """Note that the training has stopped and the process is about to end."""
        self._is_met = True

    @contextmanager
    def listening(self, num_processes: int) -> Iterator[None]:
        """Treat the signals as requests within the block.

        A second Ctrl-C raises KeyboardInterrupt at once. Several processes may get the first one twice, from the
        scheduler of a cluster and from torchrun, so they ignore a signal that arrives as they end. A second SIGTERM has
        no effect; SIGKILL ends a process that takes too long.

        Args:
            num_processes: number of processes that train together.
        """
        pause = 0.0 if num_processes == 1 else _SAME_CALL

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._first_signal is None:
                self._first_signal, self._made_at = number, time.monotonic()
            elif number == signal.SIGINT and time.monotonic() - self._made_at >= pause:
                raise KeyboardInterrupt

        before: dict[signal.Signals, Any] = {number: signal.signal(number, on_signal) for number in _STOPS}
        try:
            yield
        except BaseException:
            self.meet()
            raise
        finally:
            if num_processes > 1 and self._is_met:  # the same request may arrive again from another sender
                before = dict.fromkeys(_STOPS, signal.SIG_IGN)
            for number, handler in before.items():
                signal.signal(number, handler)
