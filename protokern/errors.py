"""The package's own exceptions, and the checks of settings and of optional packages that raise them.

The command line shows any of these as one line and exits with code 2.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class ProtokernError(Exception):
    """Base of every error that a caller may want to catch as a whole."""


class BackendUnavailableError(ProtokernError, RuntimeError):
    """A backend was named and cannot run here; the message says why and what to do."""


class ConfigError(ProtokernError, ValueError):
    """A configuration file or a `--set` has an unknown key, a wrong type or a value out of range."""


class DataError(ProtokernError, ValueError):
    """A data folder or an image cannot be used."""


class CheckpointError(ProtokernError, RuntimeError):
    """A run folder or a checkpoint is missing, incomplete or of another kind."""


class TrainingError(ProtokernError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class ExportError(ProtokernError, RuntimeError):
    """A model cannot be written in a format, or the file that was written does not answer as the model does."""


class LostContactError(ProtokernError, RuntimeError):
    """A process of a training no longer hears from another one."""


class OtherProcessError(ProtokernError, RuntimeError):
    """Another process of the same training has failed and printed why; this one prints nothing."""


class Stopped(Exception):
    """A training was asked to stop, and stops between two batches. It is not an error: `protokern.train.loop.train`
    catches it, writes a checkpoint and ends."""


class MissingPackageError(ProtokernError, ImportError):
    """An optional package is missing; the message says how to install it."""


class BrokenPackageError(MissingPackageError):
    """A package is installed but fails to import; the message says why."""


LARGEST_NUMBER = 2**53  # largest count: no array has more entries


def require(condition: bool, name: str, wanted: str, got: Any) -> None:
    """Raise the one-line ConfigError for the field `name` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}: must be {wanted}; got {got!r}.")


def require_number(settings: Any, *names: str, minimum: float = 0, above: bool = False) -> None:
    """Check that the named fields are finite numbers, at least (or, with `above`, greater than) `minimum`."""
    for name in names:
        value = getattr(settings, name)
        is_countable = not isinstance(value, int) or abs(value) <= LARGEST_NUMBER
        require(is_countable, name, f"a number of at most {LARGEST_NUMBER}", value)
        inside = math.isfinite(value) and (value > minimum if above else value >= minimum)
        require(inside, name, f"a finite number {'greater than' if above else 'of at least'} {minimum}", value)


def import_optional(module: str, *, package: str, needed_for: str, install: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its import name, such as "captum.attr".
        package: its name for pip.
        needed_for: the purpose, for the message.
        install: the argument of pip install, such as "'protokern[explain]'".

    Raises:
        MissingPackageError: it is not installed.
        BrokenPackageError: it is installed, and something in it or below it cannot be imported.
    """
    root = module.partition(".")[0]
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if find_spec(root) is None:
            raise MissingPackageError(
                f"{package}: must be installed for {needed_for}; it cannot be imported ({error}). "
                f"Run pip install {install}."
            ) from error
        raise BrokenPackageError(_say_broken(package, needed_for, install, error)) from error
    except Exception as error:  # an incompatible package may raise anything
        raise BrokenPackageError(_say_broken(package, needed_for, install, error)) from error
    spec = imported.__spec__
    if spec is not None and spec.origin is None:  # Python treats a folder of that name as a package
        where = next(iter(spec.submodule_search_locations or ()), "?")
        raise MissingPackageError(
            f"{package}: must be installed for {needed_for}; {where} is only a folder of its name. "
            f"Run pip install {install}."
        )
    return imported


def _say_broken(package: str, needed_for: str, install: str, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(". ")
    return (
        f"{package}: must be importable for {needed_for}; it is installed, but fails with {type(error).__name__}: "
        f"{reason}. Install a version that fits the other packages: pip install --upgrade {install}."
    )
