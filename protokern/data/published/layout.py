"""What a published layout says: its images, classes and official split, and its annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from protokern.data.class_names import composed
from protokern.data.marks import Annotated, Mark, MarksOfImages, line_error
from protokern.errors import DataError

if TYPE_CHECKING:
    from protokern.data.dataset import Sample


@dataclass(frozen=True, slots=True)
class Listing:
    """The images that a data set lists.

    Attributes:
        classes: class names, in the order of the data set.
        samples: files and class indices by split, "train" and "test".
        origin: the file or folder that says what is in a split.
    """

    classes: list[str]
    samples: dict[str, list[Sample]]
    origin: dict[str, str]


@dataclass(frozen=True, slots=True)
class PublishedLayout:
    """A published layout.

    Attributes:
        name: of the data set.
        signs: files and folders that a data folder of this layout has.
        list_images: the images of a data folder.
        read_annotations: their boxes, parts and masks.
    """

    name: str
    signs: tuple[str, ...]
    list_images: Callable[[Path], Listing]
    read_annotations: Callable[[Path], Annotated]


def read_lines(file: Path, number: int) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text file with their numbers, split at spaces; empty lines and those after # are left out.

    Args:
        file: the file.
        number: how many values a line has; the last one may have spaces.

    Raises:
        DataError: the file cannot be read, or a line has fewer values.
    """
    for line, text in enumerate(read_text(file).splitlines(), start=1):
        values = text.strip().split(maxsplit=number - 1)
        if not values or values[0].startswith("#"):
            continue
        if len(values) < number:
            raise line_error(file, line, f"must have {number} values with spaces between; got {text.strip()!r}")
        yield line, values


def read_text(file: Path) -> str:
    """The content of a text file; raises a DataError if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(
            f"{file}: must be a file that can be read; it cannot ({error.strerror}). Restore it."
        ) from error


def numbers_of(file: Path, line: int, values: list[str]) -> list[float]:
    """Values of a line as numbers; raises a DataError where one is none."""
    try:
        return [float(value) for value in values]
    except ValueError:
        raise line_error(file, line, f"must have numbers; got {' '.join(values)!r}") from None


def image_below(folder: Path, name: str, file: Path, line: int) -> Path:
    """The path of an image that a table names.

    Raises:
        DataError: the name leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise line_error(file, line, f"must name an image below {folder}; got {name!r}")
    return folder / path


def listing(samples: Mapping[str, list[tuple[Path, int]]], names: Mapping[int, str], origin: dict[str, str]) -> Listing:
    """The images of a data set whose classes have numbers.

    Args:
        samples: files and the numbers of their classes, by split.
        names: of the classes, by number. Classes without images are left out.
        origin: as in `Listing`.

    Raises:
        DataError: a class has no name.
    """
    used = sorted({number for some in samples.values() for _, number in some})
    unnamed = [number for number in used if number not in names]
    if unnamed:
        raise DataError(
            f"data: must have a name for class {unnamed[0]} of the data set; there is none. Restore its files."
        )
    index = {number: label for label, number in enumerate(used)}
    by_split = {
        split: sorted(((path, index[number]) for path, number in some), key=lambda sample: (sample[1], sample[0]))
        for split, some in samples.items()
    }
    return Listing([names[number] for number in used], by_split, origin)


def by_image(marks: Iterator[Mark]) -> MarksOfImages:
    """Marks by the composed name of their image."""
    found: dict[str, list[Mark]] = {}
    for mark in marks:
        found.setdefault(composed(mark.path), []).append(mark)
    return found
