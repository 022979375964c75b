"""Errors that no part of the program expected: those of libraries, which the user can fix, and bugs of protokern.

The traceback of a bug is written to a file in the run folder or the folder for temporary files; the user sees one short
message.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import protokern

_LESS_MEMORY = "Lower train.batch_size or data.image_size, or choose a smaller net"
# (class of the error, "" for any; phrases of which its text must have one, if there are any; what it means and what to
# do). The classes are given by name, because torch must not be imported for a message.
_KNOWN: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "",
        ("Expected more than 1 value per channel",),
        "train.batch_size: must be at least 2 for batch norms that learn from single patches. Use a larger one, "
        'train.batch_norm = "frozen", or a larger data.image_size.',
    ),
    ("OutOfMemoryError", (), f"the device has too little memory ({{reason}}). {_LESS_MEMORY}."),
    ("MemoryError", (), f"this machine has too little memory ({{reason}}). {_LESS_MEMORY}."),
    (
        "RuntimeError",
        ("can't allocate memory", "not enough memory", "Cannot allocate memory", "Storage size calculation overflowed"),
        f"this machine has too little memory ({{reason}}). {_LESS_MEMORY}.",
    ),
    (
        "",
        ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "NCCL"),
        "the GPU or its driver failed ({reason}). Try again, or use --device cpu.",
    ),
    (
        "",
        ("torch._dynamo", "torch._inductor", "TorchDynamo"),
        "train.compile: torch.compile failed here ({reason}). Set train.compile = false.",
    ),
    (
        "UnicodeEncodeError",
        (),
        "the output cannot show a name that is to be printed ({reason}). Set PYTHONIOENCODING=utf-8.",
    ),
)


def mistake_in_words(error: BaseException) -> str | None:
    """One line for an error of a library whose cause is a setting, a file or the machine; None for any other error."""
    names = {one.__name__ for one in type(error).__mro__}
    where = type(error).__module__
    text = f"{where}: {error}"
    for name, words, meaning in _KNOWN:
        if (not name or name in names) and (not words or any(word in text for word in words)):
            return meaning.format(reason=_first_line(error))
    if isinstance(error, ImportError) and error.name and error.name.partition(".")[0] != "protokern":
        package = error.name.partition(".")[0]
        return (
            f"{package}: is needed and cannot be imported ({_first_line(error)}). Run pip install --upgrade {package}."
        )
    return None


def write_fault(verb: str, arguments: Sequence[str], error: BaseException, folder: Path | None) -> str:
    """Write a bug of the program to a file; return the message for people.

    Args:
        verb: the verb of the command.
        arguments: all arguments of the command.
        error: the error that was raised.
        folder: the run folder of the command, if there is one.
    """
    told = f"an error that protokern should not make: {type(error).__name__}: {_first_line(error)}."
    report = "Please report it where you got protokern from, and add"
    path = _write(_content(arguments, error), folder)
    if path is None:
        return f"protokern {verb}: {told} {report} what the same command says with --debug."
    return f"protokern {verb}: {told} {report} {path}, which has the command, versions and the traceback."


def _content(arguments: Sequence[str], error: BaseException) -> str:
    versions = {"protokern": protokern.__version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    versions |= {
        name: str(getattr(sys.modules[name], "__version__", "unknown"))
        for name in ("torch", "torchvision", "numpy", "PIL", "timm", "triton")
        if name in sys.modules
    }
    facts = "\n".join(f"{name} {version}" for name, version in versions.items())
    return f"protokern {' '.join(arguments)}\n\n{facts}\n\n{''.join(traceback.format_exception(error))}"


def _write(content: str, folder: Path | None) -> Path | None:
    """Write a new file with this content, in `folder` if possible; return None if no file can be written."""
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            number, name = tempfile.mkstemp(prefix="protokern-error-", suffix=".log", dir=place)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(content)
        except OSError:
            continue
        return Path(name)
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
