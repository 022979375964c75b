"""Peak memory of a call, as torch's own allocator sees it: Python and C++ alike."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], None]) -> int:
    """Most bytes of CPU tensors that `call` holds at once, beyond those that existed before it."""
    call()  # what a first call allocates once is not what is asked
    # One cycle either way; without acc_events torch 2.11 warns, already in the first, that a second would forget it.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        call()
    assert run.profiler is not None
    results = run.profiler.kineto_results
    assert results is not None
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    assert changes, "the profiler saw no allocation"
    held = peak = 0
    for _, size in sorted(changes):
        held += size
        peak = max(peak, held)
    return peak
