"""`python -m benchmarks gpu`: what the package says, or what is done afterwards with what another machine found."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commit import ROOT, git_sha
from benchmarks.gpu.plan import MINUTES, STAGES, SUMMARY, Settings
from benchmarks.gpu.runner import Run
from benchmarks.gpu.store import Store, fingerprint
from benchmarks.pages.results import DEVICE, MEMORY, SPEED


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder that all files go to besides build/gpu")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after so many, everything has ended")
    parser.add_argument("--rehearse", action="store_true", help="on the processor, tiny, nothing stored for good")
    parser.add_argument("--store", type=Path, metavar="OUT", help="take up rows and tiles of a run elsewhere, and end")
    parser.add_argument("--choose", action="store_true", help="write the table of `auto` from the stored rows, and end")
    arguments = parser.parse_args(argv)
    if arguments.minutes <= 0:
        parser.error(f"--minutes: must be positive; got {arguments.minutes:g}.")
    return arguments


def main(argv: Sequence[str] | None = None, begun: float | None = None) -> int:
    begun = time.monotonic() if begun is None else begun
    arguments = parse_arguments(argv)
    if arguments.store is not None or arguments.choose:
        # What measures knows no torch; this part does.
        from benchmarks.gpu import afterwards

        return afterwards.main(arguments.store, choose=arguments.choose)
    home = ROOT / "build" / ("gpu-rehearsal" if arguments.rehearse else "gpu")
    results = {} if arguments.rehearse else {"speed": SPEED, "memory": MEMORY, "device": DEVICE}
    store = Store(home, arguments.out, results, fingerprint())
    commit = git_sha()
    settings = Settings(rehearse=arguments.rehearse, commit=commit, home=str(home))
    run = Run(STAGES, SUMMARY, settings, store, end=begun + 60 * arguments.minutes, begun=begun)
    said = store.open()
    run.say(f"commit {commit}, sources {store.sources}: {said}")
    if arguments.rehearse:
        run.say("REHEARSAL: the processor plays the device; no number is that of a GPU, and none is stored for good")
    return run.go()
