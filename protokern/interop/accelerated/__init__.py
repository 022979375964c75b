"""The methods that replace those of the released programs, as classes to mix into theirs; one file for each program.

A new program is a file here and a row in programs.py. Whole networks that were saved when all this was one module name
`make_empty` and the first two classes by their address in this package.
"""

from __future__ import annotations

from .base import Accelerated, accelerated_class, make_empty
from .programs import PROGRAMS, Program, at_address, program_of
from .protopnet import AcceleratedProtoPNet
from .protopool import AcceleratedProtoPool
from .trial import Trial

__all__ = [
    "PROGRAMS",
    "Accelerated",
    "AcceleratedProtoPNet",
    "AcceleratedProtoPool",
    "Program",
    "Trial",
    "accelerated_class",
    "at_address",
    "make_empty",
    "program_of",
]
