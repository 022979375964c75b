"""Versions and checksums of the tables that a run writes, so that a newer or a damaged one is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError
from protokern.storage.files import to_json_bytes

CHECKSUM = "checksum"


def check_format(path: Path, table: Any, newest: str, *, oldest: int = 1, remedy: str = "") -> int:
    """The version of a table that says in `format` what it is.

    Args:
        path: where it is from.
        table: what was read there.
        newest: name and version that are written now, such as "protokern-checkpoint-2".
        oldest: version that can still be read.
        remedy: what to do about another version.

    Raises:
        CheckpointError: another format, or a version that is newer than this program or too old for it.
    """
    name, _, last = newest.rpartition("-")
    text = table.get("format") if isinstance(table, dict) else None
    start, _, version = text.rpartition("-") if isinstance(text, str) else ("", "", "")
    is_ours = start == name and version.isascii() and version.isdigit() and len(version) < 10
    if is_ours and int(version) > int(last):
        raise CheckpointError(f"{path}: is of format {text}; this version reads up to {newest}. Update protokern.")
    if not is_ours or int(version) < oldest:
        raise CheckpointError(" ".join(f"{path}: must be of format {newest}; got {text!r}. {remedy}".split()))
    return int(version)


def seal(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with a checksum of all that it holds."""
    return {**table, CHECKSUM: sha256(to_json_bytes(table))}


def check_seal(path: Path, table: Mapping[str, Any]) -> None:
    """Raise a CheckpointError unless `table`, read from `path`, holds what was sealed."""
    content = {key: value for key, value in table.items() if key != CHECKSUM}
    try:
        found = sha256(to_json_bytes(content))
    except ValueError:  # NaN, which is never written
        found = None
    if table.get(CHECKSUM) != found:
        raise CheckpointError(
            f"{path}: is not as it was written: its checksum differs. Go back to an older checkpoint or a copy."
        )


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
