"""What a run remembers of forbidden prototypes: the patches that they were, so that no training brings them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from protokern.edits.bench import EditedNet
from protokern.edits.net import EditedPrototype
from protokern.push import PushResult
from protokern.runs.forbidden import Forbidden, ForbiddenPlace


def forbidden_places(
    net: EditedNet,
    push: PushResult,
    classes: Sequence[str],
    name_image: Callable[[int], str],
    before: Forbidden | None = None,
) -> Forbidden | None:
    """The places of the forbidden prototypes after those of the run that was edited; None if there are none.

    An earlier place is left out if an edit made just this patch a prototype of one of its classes: then a person wants
    it.

    Args:
        net: after the edits.
        push: where the prototypes of the run came from.
        classes: class names of the run.
        name_image: the name of a training image by its position.
        before: of the run that was edited.
    """
    wanted = {
        (name_image(one.place.image), one.place.patch, classes[k])
        for one in net.prototypes
        if one.place is not None
        for k in one.classes
    }
    earlier = () if before is None else before.places
    places = [one for one in earlier if not any((one.image, one.patch, name) in wanted for name in one.classes)]
    seen = {(one.image, one.patch, one.classes) for one in places}
    for one in _places(net.forbidden, push, classes, name_image):
        if (one.image, one.patch, one.classes) not in seen:
            seen.add((one.image, one.patch, one.classes))
            places.append(one)
    return Forbidden(grid=push.grid, places=tuple(places)) if places else None


def _places(
    forbidden: Sequence[EditedPrototype], push: PushResult, classes: Sequence[str], name_image: Callable[[int], str]
) -> Iterator[ForbiddenPlace]:
    for one in forbidden:
        assert one.forbidden is not None
        if one.place is not None:
            image, patch = one.place.image, one.place.patch
        else:
            assert one.origin is not None
            image, flat = int(push.image[one.origin]), int(push.patch[one.origin])
            if image < 0:  # it was no patch
                continue
            patch = (flat // push.grid[1], flat % push.grid[1])
        yield ForbiddenPlace(
            image=name_image(image),
            patch=patch,
            classes=tuple(classes[k] for k in one.classes),
            reason=one.forbidden.reason,
        )
