"""The package's own exceptions, and the checks of settings that raise them.

The command line shows any of these as one line and exits with code 2.
"""

from __future__ import annotations

import errno
import math
from typing import Any


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


class LostContactError(ProtokernError, RuntimeError):
    """A process of a training no longer hears from another one."""


class OtherProcessError(ProtokernError, RuntimeError):
    """Another process of the same training has failed and has said why; this one has nothing to add."""


class MissingPackageError(ProtokernError, ImportError):
    """Something needs a package that is no requirement of protokern; the message says how to install it."""


def require(condition: bool, name: str, wanted: str, got: Any) -> None:
    """Raise the one-line ConfigError for the field `name` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}: must be {wanted}; got {got!r}.")


def require_number(settings: Any, *names: str, minimum: float = 0, above: bool = False) -> None:
    """Check that the named fields are finite numbers, at least (or, with `above`, greater than) `minimum`."""
    for name in names:
        value = getattr(settings, name)
        inside = math.isfinite(value) and (value > minimum if above else value >= minimum)
        require(inside, name, f"a finite number {'greater than' if above else 'of at least'} {minimum}", value)


def advice_on_write(error: OSError, go_on: str, or_else: str) -> str:
    """What to do after a failed write, in a sentence or two: make room and `go_on`, get permission, or `or_else`."""
    whole = "What was written before is whole."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{whole} Make room and {go_on}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{whole} Allow to write there, or give another folder."
    return f"{whole} {or_else}."
