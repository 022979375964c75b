"""What edits did to a net, in words and numbers for its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protokern.app.answers import Answers
from protokern.app.browse import picture_of
from protokern.app.room import Room
from protokern.edits.bench import EditedNet
from protokern.edits.records import Add, Assign, Edit, Forbid, Keep, Limit, Replace
from protokern.metrics.concentration import shares_of_largest
from protokern.metrics.duplicates import find_duplicates
from protokern.metrics.size import weight_counts
from protokern.models.base import PrototypeModel, vectors_of
from protokern.push import PushResult
from protokern.report.images import Shelf
from protokern.report.numbers import decimal, percent
from protokern.report.view import Table

SHOWN = 4  # prototypes of an explanation
MOST_CHANGED = 60  # images on the page


def view_edits(room: Room, shelf: Shelf) -> Table:
    """The history, what it did, and the images that are answered otherwise."""
    editor, net = room.editor, room.current.net
    assert net is not None
    names = room.run.classes
    if room.numbers is None:  # pages ask every few seconds
        room.numbers = _numbers(room, net)
    return {
        "busy": editor.busy,
        "can_undo": editor.can_undo,
        "can_redo": editor.can_redo,
        "history": [[say_edit(one.edit), one.counts] for one in editor.edits],
        "forbidden": [[card.index, _reason(net, card.index)] for card in room.current.forbidden],
        "limits": [[k, limit.own, limit.others] for k, limit in sorted(net.limits.items())],
        "numbers": room.numbers,
        "empty": [names[k] for k in net.empty_classes],
        "num_changed": len(net.changed),
        "won": sum(one.after == one.label for one in net.changed),
        "lost": sum(one.before == one.label for one in net.changed),
        "changed": [
            [f"val/{one.image}", picture_of(room, shelf, "val", one.image), *(names[k] for k in _of(one))]
            for one in net.changed[:MOST_CHANGED]
        ],
    }


def _of(one: Any) -> tuple[int, int, int]:
    return one.label, one.before, one.after


def _reason(net: EditedNet, number: int) -> str:
    return next((one.forbidden.reason for one in net.forbidden if one.number == number and one.forbidden), "")


def say_edit(edit: Edit) -> str:
    """An edit as a sentence without its full stop."""
    if isinstance(edit, Add):
        return f"A patch of {edit.image} was added as a prototype of {_joined(edit.classes)}"
    if isinstance(edit, Forbid):
        return f"Prototype {edit.prototype} was forbidden" + (f": {edit.reason}" if edit.reason else "")
    if isinstance(edit, Keep):
        return f"Prototype {edit.prototype} was kept"
    if isinstance(edit, Replace):
        return f"Prototype {edit.prototype} became a patch of {edit.image}"
    if isinstance(edit, Limit):
        return f"For {_joined(edit.classes)}: {edit.in_words or 'no limit any more'}"
    assert isinstance(edit, Assign)
    return f"Prototype {edit.prototype} was given to {_joined(edit.classes)}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names)


def _numbers(room: Room, net: EditedNet) -> list[list[str]]:
    """[what, before, now] on the validation images, and of the net."""
    run = room.run
    assert run.push is not None
    before, now = room.base("val"), room.answers("val")
    models = ((run.model, run.push, before), (net.model, net.push, now))
    rows: list[tuple[str, list[str]]] = [
        ("right answers to validation images", [percent(one.accuracy) for one in (net.val_before, net.val_after)]),
        ("cross entropy there: the lower, the better", [decimal(one.loss) for one in (net.val_before, net.val_after)]),
        ("prototypes", [str(model.num_prototypes) for model, _, _ in models]),
        ("prototypes that repeat another", [str(_repeats(model, push)) for model, push, _ in models]),
        ("weights in use", [str(_weights(model)) for model, _, _ in models]),
        (
            f"what the {SHOWN} strongest prototypes decide of an answer",
            [percent(_carried(model, answers)) for model, _, answers in models],
        ),
    ]
    return [[name, *values] for name, values in rows]


def _weights(model: PrototypeModel) -> int:
    weight = model.prototype_weight.detach().cpu().numpy()
    return round((1 - weight_counts(weight).sparse) * weight.size)


def _repeats(model: PrototypeModel, push: PushResult) -> int:
    columns = push.grid[1]
    height, width = model.prototype_layer.prototype_size
    sources = list(zip(push.image.tolist(), push.patch.tolist(), strict=True))
    cells = [divmod(patch, columns) for _, patch in sources]
    boxes = [(row, column, row + height, column + width) for row, column in cells]
    pairs = find_duplicates(vectors_of(model).detach().cpu().numpy(), sources, boxes)
    return len({pair.second for pair in pairs})


def _carried(model: PrototypeModel, answers: Answers) -> float | None:
    """The mean over images of the share of the margin that the shown prototypes carry; see `shares_of_largest`."""
    weight = model.prototype_weight.detach().double().cpu().numpy()
    first = answers.logits.topk(min(2, answers.logits.shape[1]), dim=1).indices.numpy()
    activations = answers.activation.double().numpy()
    shares = [
        shares_of_largest(activations[row], weight, pair[0], pair[-1])[SHOWN - 1] for row, pair in enumerate(first)
    ]
    known = np.array([one for one in shares if not np.isnan(one)])
    return float(known.mean()) if len(known) else None
