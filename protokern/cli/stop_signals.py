"""Signals that ask a training to stop: it finishes its batch and writes a checkpoint first."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)
_SAME_CALL = 5.0  # seconds in which two Ctrl-C to several processes are one


class StopRequest:
    """Ctrl-C, or SIGTERM, by which schedulers stop a job, as a request to stop soon, not as the end of the process."""

    def __init__(self) -> None:
        self._first_signal: int | None = None
        self._made_at = 0.0
        self._is_met = False

    def is_made(self) -> bool:
        """Whether somebody has asked for a stop."""
        return self._first_signal is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal, as shells count; that of Ctrl-C in a process that stops because another was asked."""
        return 128 + (self._first_signal or signal.SIGINT)

    def meet(self) -> None:
        """The training has stopped, and the process ends now."""
        self._is_met = True

    @contextmanager
    def listening(self, num_processes: int) -> Iterator[None]:
        """Take the signals for requests within the block.

        A second Ctrl-C raises KeyboardInterrupt at once. Several processes may get the first one twice, from the
        scheduler of a cluster and from torchrun; they ignore one that comes as they end. Another SIGTERM changes
        nothing: whoever cannot wait sends SIGKILL.

        Args:
            num_processes: that train together.
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
            if num_processes > 1 and self._is_met:  # the same request may still come from somebody else
                before = dict.fromkeys(_STOPS, signal.SIG_IGN)
            for number, handler in before.items():
                signal.signal(number, handler)
