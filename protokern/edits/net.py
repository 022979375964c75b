"""Which prototypes a net has after some edits: their numbers, patches and classes, without a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from protokern.edits.history import Counted
from protokern.edits.records import Add, Assign, Edit, EditError, Forbid, Keep, Replace


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
        if not counted.counts:
            continue
        try:
            _apply(found, counted.edit, looked_up)
        except EditError as error:
            raise EditError(f"edit {place}, {counted.edit.kind!r}: {error}") from error
    return [one for one in found if one is not None]


class _Names:
    def __init__(
        self, class_names: Sequence[str], find_image: Callable[[str], int | None], grid: tuple[int, int]
    ) -> None:
        self._classes = {name: k for k, name in enumerate(class_names)}
        self._find_image, self._grid = find_image, grid

    def classes(self, names: Sequence[str]) -> tuple[int, ...]:
        unknown = [name for name in names if name not in self._classes]
        if unknown:
            raise EditError(f"classes must be classes of the net; got {unknown[0]!r}. It has {len(self._classes)}.")
        return tuple(sorted(self._classes[name] for name in names))

    def place(self, image: str, patch: tuple[int, int]) -> Place:
        index = self._find_image(image)
        if index is None:
            raise EditError(f"image must be the name of a training image; got {image!r}.")
        rows, columns = self._grid
        if not (patch[0] < rows and patch[1] < columns):
            raise EditError(f"patch must be in the grid of {rows} x {columns} patches; got {list(patch)}.")
        return Place(image=index, patch=(patch[0], patch[1]))


def _apply(found: list[EditedPrototype | None], edit: Edit, names: _Names) -> None:
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
