"""Old address of `load_model`, kept for programs that import it from here; see `protokern.runs.open`."""

from protokern.runs.open import load_model

__all__ = ["load_model"]
