"""Old address of the warnings about a model, kept for programs that import them here; see `protokern.runs.quality`."""

from protokern.runs.quality import answer_warnings, copied_prototypes, model_warnings

__all__ = ["answer_warnings", "copied_prototypes", "model_warnings"]
