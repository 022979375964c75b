"""The package's own exceptions. The command line shows any of them as one line and exits with code 2."""

from __future__ import annotations


class ProtokernError(Exception):
    """Base of every error that a caller may want to catch as a whole."""


class BackendUnavailableError(ProtokernError, RuntimeError):
    """A backend was asked for by name and cannot run here; the message says why and what to do."""


class ConfigError(ProtokernError, ValueError):
    """A configuration file or a `--set` has an unknown key, a wrong type or a value out of range."""


class DataError(ProtokernError, ValueError):
    """A data folder or an image cannot be used."""


class CheckpointError(ProtokernError, RuntimeError):
    """A run folder or a checkpoint is missing, incomplete or of another kind."""


class TrainingError(ProtokernError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""
