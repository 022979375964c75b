"""Which prototypes and limits a net has after some edits: numbers, patches and classes, without a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from protokern.edits.history import Counted
from protokern.edits.records import Add, Assign, Edit, EditError, Forbid, Keep, Limit, PrototypeEdit, Replace
from protokern.solvers.limits import SignLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A patch of a training image.

    Attributes:
        image: position in the push set.
        patch: (row, column) in the grid of patches.
    """

    image: int
    patch: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedPrototype:
    """A prototype of the edited net.

    Attributes:
        number: its number in the history.
        origin: its row in the net of the run, whose vector it has; None: it has that of `place`.
        place: the patch that it became; None: as in the run.
        classes: indices of its classes, ascending.
        is_reassigned: whether these are others than in the run.
        forbidden: why the net may not use it; None: it may.
    """

    number: int
    origin: int | None
    place: Place | None
    classes: tuple[int, ...]
    is_reassigned: bool = False
    forbidden: Forbid | None = None


def edit_prototypes(
    owners: Sequence[tuple[int, ...]],
    edits: Sequence[Counted],
    *,
    class_names: Sequence[str],
    find_image: Callable[[str], int | None],
    grid: tuple[int, int],
) -> list[EditedPrototype]:
    """The prototypes after the edits, by ascending number, with those that are forbidden.

    Args:
        owners: the classes of each prototype of the run.
        edits: in order.
        class_names: names of all classes.
        find_image: from the name of a training image to its position in the push set; None: there is none.
        grid: rows and columns of the grid of patches.

    Returns:
        The prototypes. One that was added by an edit that was undone is left out, and its number with it.

    Raises:
        EditError: an edit names a prototype, class, image or patch that does not exist; the message says which edit.
    """
    found: list[EditedPrototype | None] = [
        EditedPrototype(number=j, origin=j, place=None, classes=classes) for j, classes in enumerate(owners)
    ]
    looked_up = _Names(class_names, find_image, grid)
    for place, counted in enumerate(edits, start=1):
        if isinstance(counted.edit, Add):
            found.append(None)
        if counted.counts and not isinstance(counted.edit, Limit):
            with _naming(place, counted.edit):
                _apply(found, counted.edit, looked_up)
    return [one for one in found if one is not None]


def edit_limits(edits: Sequence[Counted], class_names: Sequence[str]) -> dict[int, Limit]:
    """The limits after the edits, by ascending class index; the last one of each class, unless it allows everything.

    Raises:
        EditError: an edit names a class that does not exist; the message says which edit.
    """
    found: dict[int, Limit] = {}
    for place, counted in enumerate(edits, start=1):
        if counted.counts and isinstance(counted.edit, Limit):
            with _naming(place, counted.edit):
                found |= dict.fromkeys(_class_indices(counted.edit.classes, class_names), counted.edit)
    return {k: found[k] for k in sorted(found) if found[k].signs != SignLimit()}


@contextmanager
def _naming(place: int, edit: Edit) -> Iterator[None]:
    """Begin the message of an EditError with the edit's place in the history."""
    try:
        yield
    except EditError as error:
        raise EditError(f"edit {place}, {edit.kind!r}: {error}") from error


def _class_indices(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    indices = {name: k for k, name in enumerate(class_names)}
    unknown = [name for name in names if name not in indices]
    if unknown:
        raise EditError(f"classes must be classes of the net; got {unknown[0]!r}. It has {len(indices)}.")
    return tuple(sorted(indices[name] for name in names))


class _Names:
    def __init__(
        self, class_names: Sequence[str], find_image: Callable[[str], int | None], grid: tuple[int, int]
    ) -> None:
        self._class_names = class_names
        self._find_image, self._grid = find_image, grid

    def classes(self, names: Sequence[str]) -> tuple[int, ...]:
        return _class_indices(names, self._class_names)

    def place(self, image: str, patch: tuple[int, int]) -> Place:
        index = self._find_image(image)
        if index is None:
            raise EditError(f"image must be the name of a training image; got {image!r}.")
        rows, columns = self._grid
        if not (patch[0] < rows and patch[1] < columns):
            raise EditError(f"patch must be in the grid of {rows} x {columns} patches; got {list(patch)}.")
        return Place(image=index, patch=(patch[0], patch[1]))


def _apply(found: list[EditedPrototype | None], edit: PrototypeEdit, names: _Names) -> None:
    if isinstance(edit, Add):
        number = len(found) - 1
        found[number] = EditedPrototype(
            number=number, origin=None, place=names.place(edit.image, edit.patch), classes=names.classes(edit.classes)
        )
        return
    one = found[edit.prototype] if edit.prototype < len(found) else None
    if one is None:
        raise EditError(f"prototype must be a number of the net; got {edit.prototype}.")
    if isinstance(edit, Forbid):
        one = replace(one, forbidden=edit)
    elif isinstance(edit, Keep):
        one = replace(one, forbidden=None)
    elif isinstance(edit, Replace):
        one = replace(one, origin=None, place=names.place(edit.image, edit.patch))
    else:
        assert isinstance(edit, Assign)
        one = replace(one, classes=names.classes(edit.classes), is_reassigned=True)
    found[edit.prototype] = one
