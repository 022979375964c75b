"""Requests to stop, and what becomes of those that come again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from protokern.cli.stop_signals import StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_is_a_request_and_gives_the_exit_code() -> None:
    stop = StopRequest()
    assert not stop.is_made()
    with stop.listening(1):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_made()
    assert stop.exit_code == 128 + signal.SIGTERM


@pytest.mark.parametrize(("num_processes", "is_met"), [(1, True), (2, True), (2, False)])
def test_processes_that_stop_together_ignore_the_request_that_comes_again(num_processes: int, is_met: bool) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    stop = StopRequest()
    with stop.listening(num_processes):
        os.kill(os.getpid(), signal.SIGTERM)
        if is_met:
            stop.meet()
    wanted = [signal.SIG_IGN] * 2 if num_processes > 1 and is_met else before
    assert [signal.getsignal(number) for number in numbers] == wanted


def test_a_second_ctrl_c_stops_at_once() -> None:
    stop = StopRequest()
    with stop.listening(1):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
