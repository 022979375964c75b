"""Old address of the warnings about a trained model, kept for programs that import them from here."""

from protokern.quality import answer_warnings, copied_prototypes, model_warnings

__all__ = ["answer_warnings", "copied_prototypes", "model_warnings"]
