"""Packages that only some explanations need: imported when they are used, named in an error if they are missing."""

from __future__ import annotations

from types import ModuleType

from protokern.errors import import_optional

# Names for pip of the packages of the extra `explain`.
_NAMES = {"captum": "captum", "cv2": "opencv-python-headless", "zennit": "zennit"}


def import_extra(module: str, needed_for: str) -> ModuleType:
    """Import a module of the extra `explain`.

    Args:
        module: its name in Python, such as "cv2" or "captum.attr".
        needed_for: what the caller wants to do, for the message.

    Raises:
        MissingPackageError: the package is not installed, or its import fails.
    """
    name = _NAMES[module.partition(".")[0]]
    return import_optional(module, package=name, needed_for=needed_for, install="'protokern[explain]'")
