"""The address of `load_model` in programs of before; it is in `protokern.runs.open`."""

from protokern.runs.open import load_model

__all__ = ["load_model"]
