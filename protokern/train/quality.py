"""Old address of what speaks against trusting a model, kept for programs that import it from here."""

from protokern.runs.quality import answer_warnings, copied_prototypes, model_warnings

__all__ = ["answer_warnings", "copied_prototypes", "model_warnings"]
