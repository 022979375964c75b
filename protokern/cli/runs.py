"""Old address of what opens a run, kept for programs that import it from here; it lives in `protokern.runs`."""

from protokern.runs.data import open_data
from protokern.runs.open import OpenRun, open_run

__all__ = ["OpenRun", "open_data", "open_run"]
