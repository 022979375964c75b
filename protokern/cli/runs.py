"""Old address of the functions that open a run, kept for programs that import them from here; see `protokern.runs`."""

from protokern.runs.data import open_data
from protokern.runs.open import OpenRun, open_run

__all__ = ["OpenRun", "open_data", "open_run"]
