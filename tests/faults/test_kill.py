"""kill -9 at any moment: the run goes on, and ends with the bits of one that was never killed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from protokern.errors import CheckpointError
from protokern.runs.open import load_model

from .conftest import Forks, WholeRun
from .outcome import check_same

KILLS_BY_THE_CLOCK, KILLS_AT_A_WRITE = 20, 10


def test_killed_at_thirty_random_moments_a_run_ends_with_the_same_bits(
    forks: Forks, whole: WholeRun, tmp_path: Path
) -> None:
    """By the clock most kills hit the arithmetic; those at a write hit what is between two touches of the disk."""
    draw = random.Random(0)
    faults: list[dict[str, float]] = [
        {"kill_after": draw.uniform(0.05, 0.6) * whole.seconds} for _ in range(KILLS_BY_THE_CLOCK)
    ]
    faults += [{"kill_at_write": draw.randint(1, 60)} for _ in range(KILLS_AT_A_WRITE)]
    draw.shuffle(faults)
    attempts = ended = 0
    folder = tmp_path / "0" / "run"
    while faults:
        result = forks.train(folder, **faults[-1])
        attempts += 1
        assert attempts < 100, "the kills come too late to hit the run"
        if result.code == -signal.SIGKILL:
            faults.pop()
            check_whole(folder)
            continue
        assert result.code == 0, result.error
        check_same(folder, whole.outcome)
        ended += 1
        # The run ended before that: the machine is faster than it was, or a run does not write as often.
        faults[-1] = {name: type(when)(when / 2) for name, when in faults[-1].items()}
        folder = tmp_path / str(ended) / "run"
    assert forks.train(folder).code == 0
    check_same(folder, whole.outcome)


def check_whole(folder: Path) -> None:
    """Whatever happened, the latest checkpoint, if there is one, gives a model."""
    try:
        load_model(folder)
    except CheckpointError as error:
        assert "it has none" in str(error) or "it does not exist" in str(error)  # noqa: PT017 - it may also load
