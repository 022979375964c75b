"""Where the prototypes of a released network come from, as its program wrote it: `bb*.npy` or `projection_info.csv`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protokern.errors import CheckpointError

_PROJECTION = "projection_info.csv"
_BOXES = re.compile(r"bb(\d+)\.npy")
_LARGEST = 1 << 26  # bytes of such a file
_COLUMNS = ("image", "y0", "y1", "x0", "x1", "class")


@dataclass(frozen=True)
class PatchSources:
    """Where prototypes come from.

    Attributes:
        path: of the file that says it.
        rows: for every prototype, what the file says; "image" is the number of the image in the program's folder of
            un-augmented training images, in alphabetical order.
    """

    path: Path
    rows: tuple[dict[str, float | int], ...]

    @property
    def images(self) -> list[int]:
        """The number of each image; -1 where it is unknown."""
        return [int(row.get("image", -1)) for row in self.rows]


def read_sources(
    network: Path, num_prototypes: int, kept: Sequence[int] | None
) -> tuple[PatchSources | None, tuple[str, ...]]:
    """The sources that lie beside the file of a network, and a note about them.

    Args:
        network: the file.
        num_prototypes: of the imported model.
        kept: the rows of its prototypes in the released network; None: all.

    Raises:
        CheckpointError: a file of sources is broken.
    """
    path = _find(network)
    if path is None:
        return None, ()
    rows = _read_projection(path) if path.name == _PROJECTION else _read_boxes(path)
    chosen = [rows.get(number) for number in (range(num_prototypes) if kept is None else kept)]
    found = [row for row in chosen if row is not None]
    if len(found) < num_prototypes or (kept is None and path.name != _PROJECTION and len(rows) != num_prototypes):
        return None, (f"not used: {path.name}, of {len(rows)} prototypes, not of these {num_prototypes}",)
    return PatchSources(path, tuple(found)), (f"kept: the sources of the prototypes that {path.name} names",)


def _find(network: Path) -> Path | None:
    """The file of the sources; of several that of the epoch with which the network's name begins, else the last one."""
    folder = network.parent
    if (folder / _PROJECTION).is_file():
        return folder / _PROJECTION
    files = [*folder.glob("bb*.npy"), *folder.glob("img/epoch-*/bb*.npy")]
    files = [path for path in files if _number(path) is not None]
    epoch = re.match(r"\d+", network.name)
    of_epoch = [path for path in files if epoch is not None and _number(path) == int(epoch[0])]
    return max(of_epoch or files, key=lambda path: (_number(path) or 0, len(path.parts)), default=None)


def _number(path: Path) -> int | None:
    found = _BOXES.fullmatch(path.name)
    return int(found[1]) if found else None


def _check_size(path: Path) -> None:
    if path.stat().st_size > _LARGEST:
        raise CheckpointError(f"{path}: must have at most {_LARGEST >> 20} MB. Take it away.")


def _read_boxes(path: Path) -> dict[int, dict[str, float | int]]:
    """The rows of a `bb*.npy`: (image, y0, y1, x0, x1, class)."""
    _check_size(path)
    try:
        table: Any = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: must be an array of numbers ({error}). Take it away, or restore it.") from error
    if table.ndim != 2 or table.shape[1] not in (5, 6) or table.dtype.kind not in "if":
        raise CheckpointError(f"{path}: must have rows of 5 or 6 numbers; got {table.shape} of {table.dtype}.")
    return {
        number: {name: int(value) for name, value in zip(_COLUMNS, row, strict=False)}
        for number, row in enumerate(table.tolist())
    }


def _read_projection(path: Path) -> dict[int, dict[str, float | int]]:
    """The rows of CaBRNet's `projection_info.csv`, by the number of the prototype."""
    _check_size(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        found = {}
        for line in lines:
            row = {name: _as_number(value) for name, value in line.items() if name and value not in (None, "")}
            number = int(row.pop("proto_idx"))
            if "img_idx" in row:
                row["image"] = int(row.pop("img_idx"))
            found[number] = row
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: must be a table of numbers with the column proto_idx; it cannot be read ({error})."
        ) from error
    return found


def _as_number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value
