"""What annotations say of the images of a data set, as they were read: marks in pixels of the stored files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protokern.data.masks import MaskFiles
from protokern.errors import DataError


@dataclass(frozen=True, slots=True)
class Mark:
    """A box or the centre of a part.

    Attributes:
        file: the table that it is from.
        line: of that table, from 1.
        path: the image, as its `sample_name`.
        name: label of the box, or name of the part.
        values: x and y; or xmin, ymin, xmax and ymax, half open. Pixels, of which the first is from 0 to 1.
    """

    file: Path
    line: int
    path: str
    name: str
    values: tuple[float, ...]


# By the composed name of the image.
MarksOfImages = Mapping[str, Sequence[Mark]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """The annotations of a data folder; None for what it does not have.

    Attributes:
        boxes: of the objects.
        parts: visible centres of parts.
        masks: of the objects.
        names: of the files, for messages, by "boxes", "masks" and "parts".
    """

    boxes: MarksOfImages | None = None
    parts: MarksOfImages | None = None
    masks: MaskFiles | None = None
    names: Mapping[str, str]


def line_error(file: Path, line: int, problem: str, more: int = 0) -> DataError:
    """The error of a line of a table.

    Args:
        file: the table.
        line: its line, or the number of its entry in a MATLAB file.
        problem: what must be, and what is there.
        more: how many more lines are wrong.
    """
    unit = "entry" if file.suffix == ".mat" else "line"
    units = {"entry": "entries", "line": "lines"}[unit]
    others = (
        ""
        if not more
        else f" {more} more {f'{unit} is' if more == 1 else f'{units} are'} wrong in this way or another."
    )
    return DataError(f"{file}, {unit} {line}: {problem}. Correct the {unit}, or remove it.{others}")
