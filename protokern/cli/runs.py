"""The address of what opens a run in programs of before; it is in `protokern.runs`."""

from protokern.runs.data import open_data
from protokern.runs.open import OpenRun, open_run

__all__ = ["OpenRun", "open_data", "open_run"]
