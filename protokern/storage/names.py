"""Names: of files, short enough for the file system, or temporary while one is written; of anything, in one line."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 255  # bytes of a name, in every file system in use
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(tmp|old)")


def longest_name(folder: Path) -> int:
    """How many bytes a name in this folder may have; if it does not exist, in the nearest existing parent."""
    for existing in (folder, *folder.absolute().parents):
        try:
            return min(_LONGEST, os.pathconf(existing, "PC_NAME_MAX"))
        except (OSError, ValueError):
            continue
    return _LONGEST


def fit_name(stem: str, suffix: str, longest: int) -> str:
    """`stem` and `suffix` as a name of at most `longest` bytes; in a longer name the stem's end becomes a checksum.

    Args:
        stem: as in Python, with lone surrogates for what is not UTF-8.
        suffix: kept as it is.
        longest: bytes, enough for the suffix and ten more.
    """
    room = longest - len(os.fsencode(suffix))
    content = os.fsencode(stem)
    if len(content) <= room:
        return stem + suffix
    checksum = "-" + hashlib.sha256(content).hexdigest()[:8]
    kept = stem[: room - len(checksum)]
    while len(os.fsencode(kept)) > room - len(checksum):
        kept = kept[:-1]
    return kept + checksum + suffix


def temporary_path(path: Path, kind: str = "tmp") -> Path:
    """Where this process writes the new content of `path` ("tmp"), or moves the old one ("old")."""
    return path.with_name("." + fit_name(path.name, f".{os.getpid()}.{kind}", longest_name(path.parent) - 1))


def left_by_a_dead_process(name: str) -> str | None:
    """The final name of the temporary file or folder of this name if its process has ended; otherwise None."""
    match = _TEMPORARY.fullmatch(name)
    if match is None:
        return None
    process = int(match["process"])
    # In a container every process may have the same number: a file with ours is from an earlier process.
    return match["name"] if process == os.getpid() or not _lives(process) else None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def look_alike_key(name: str) -> str:
    """The same text for names that people, and some file systems, do not distinguish: composed letters, lower case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def one_line(text: str) -> str:
    """The text with single spaces between its words; what would steer a terminal is written as an escape."""
    letters = " ".join(text.split())
    return "".join(f"\\x{ord(one):02x}" if unicodedata.category(one) == "Cc" else one for one in letters)


def name_outputs(inputs: Sequence[Path], endings: Sequence[str], longest: int) -> list[tuple[str, ...]]:
    """Names for what is written of each input, one for each of the endings, such as ".html".

    They are the inputs' own, numbered where a file system might take two for one.
    """
    names: list[tuple[str, ...]] = []
    taken: set[str] = set()
    for path in inputs:
        number = 1
        while True:
            suffix = "" if number == 1 else f"-{number}"
            found = tuple(fit_name(path.stem, suffix + ending, longest) for ending in endings)
            if look_alike_key(found[0]) not in taken:
                break
            number += 1
        taken.add(look_alike_key(found[0]))
        names.append(found)
    return names
