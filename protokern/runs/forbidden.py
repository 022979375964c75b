"""RUN/forbidden.json: patches of training images that no prototype of some classes may be, as a person decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError, ProtokernError
from protokern.storage.files import read_table, seal, to_json_bytes, write_file

FORBIDDEN_FILE = "forbidden.json"
_FORMAT = "protokern-forbidden-1"
_LARGEST = 2**31  # of a row or column; what is larger is no grid


@dataclass(frozen=True, slots=True, kw_only=True)
class ForbiddenPlace:
    """A patch of a training image.

    Attributes:
        image: name of the training image, such as "train/dress/3.jpg".
        patch: (row, column) in the grid of patches.
        classes: names of the classes whose prototypes it may not be.
        reason: why, in the person's words.
    """

    image: str
    patch: tuple[int, int]
    classes: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbidden:
    """All forbidden places of a run, at least one.

    Attributes:
        grid: (H', W'), rows and columns of the grid of patches.
        places: in the order in which they were forbidden.
    """

    grid: tuple[int, int]
    places: tuple[ForbiddenPlace, ...]


def settle_forbidden(run: Path, forbidden: Forbidden | None) -> None:
    """Write the places into the run folder, which exists, or remove the file if there are none."""
    if forbidden is None:
        (run / FORBIDDEN_FILE).unlink(missing_ok=True)
        return
    places = [
        {"image": one.image, "patch": list(one.patch), "classes": list(one.classes), "reason": one.reason}
        for one in forbidden.places
    ]
    table = {"format": _FORMAT, "grid": list(forbidden.grid), "places": places}
    write_file(run / FORBIDDEN_FILE, to_json_bytes(seal(table)))


def is_forbidden_file(path: Path) -> bool:
    """Whether the file is as `settle_forbidden` wrote it, so that replacing it loses no change made by hand."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return read_forbidden(path.parent) is not None
    except ProtokernError:
        return False


def read_forbidden(run: Path) -> Forbidden | None:
    """The places that `settle_forbidden` wrote; None if the run has none.

    Raises:
        CheckpointError: the file is too large, broken, changed or of a newer version.
    """
    path = run / FORBIDDEN_FILE
    if not path.exists():
        return None
    table = read_table(path, _FORMAT, sealed_from=1)
    grid: Any = table.get("grid")
    places: Any = table.get("places")
    if not _is_pair(grid) or 0 in grid:
        raise _broken(path, "rows and columns of the grid of patches as 'grid'", grid)
    if not isinstance(places, list) or not places:
        raise _broken(path, "a list of at least one place as 'places'", places)
    return Forbidden(grid=(grid[0], grid[1]), places=tuple(_place(path, one, grid) for one in places))


def _place(path: Path, table: Any, grid: list[int]) -> ForbiddenPlace:
    if not isinstance(table, dict):
        raise _broken(path, "tables of places", table)
    values: list[Any] = [table.get(key) for key in ("image", "patch", "classes", "reason")]
    image, patch, classes, reason = values
    if not isinstance(image, str):
        raise _broken(path, "the name of an image as 'image'", image)
    if not _is_pair(patch) or patch[0] >= grid[0] or patch[1] >= grid[1]:
        raise _broken(path, f"row and column in a grid of {grid[0]} x {grid[1]} as 'patch'", patch)
    if not isinstance(classes, list) or not classes or not all(isinstance(one, str) for one in classes):
        raise _broken(path, "names of classes, at least one, as 'classes'", classes)
    if not isinstance(reason, str):
        raise _broken(path, "a text as 'reason'", reason)
    return ForbiddenPlace(image=image, patch=(patch[0], patch[1]), classes=tuple(classes), reason=reason)


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(one) is int and 0 <= one < _LARGEST for one in value)


def _broken(path: Path, wanted: str, got: Any) -> CheckpointError:
    return CheckpointError(f"{path}: must have {wanted}; got {str(got)[:60]!r}. Take it from a copy, or edit again.")
