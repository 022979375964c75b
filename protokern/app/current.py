"""The net that a page shows now: that of its run, or what edits made of it, with the numbers that people know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from protokern.edits.bench import EditedNet
from protokern.edits.net import EditedPrototype, Place
from protokern.explain.boxes import cell_box
from protokern.explain.prototypes import class_weights
from protokern.results.places import Box, LazyPicture, SeenPicture
from protokern.results.prototypes import ClassWeight, Prototype, PrototypeSource
from protokern.runs.data import RunData
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """A net and its prototypes.

    Attributes:
        revision: of the history that made it.
        run: with its model.
        cards: of its prototypes, by row; their `index` is their number in the history, see `protokern.edits.records`.
        forbidden: those that it may not use.
        net: what edits made; None: nothing can be edited.
    """

    revision: int
    run: OpenRun
    cards: tuple[Prototype, ...]
    forbidden: tuple[Prototype, ...] = ()
    net: EditedNet | None = None

    @property
    def all_cards(self) -> tuple[Prototype, ...]:
        """By number, with those that are forbidden."""
        return tuple(sorted((*self.cards, *self.forbidden), key=lambda card: card.index))

    def row_of(self, number: int) -> int | None:
        """Where the model has a prototype; None: it is forbidden, or there is none."""
        return next((row for row, card in enumerate(self.cards) if card.index == number), None)


def current_net(
    run: OpenRun, net: EditedNet, revision: int, cards: Sequence[Prototype], files: PrototypeFiles, splits: RunData
) -> Current:
    """The net after edits.

    Args:
        run: that was edited.
        net: what edits made.
        revision: of their history.
        cards: of the prototypes of the run, by index.
        files: of these prototypes.
        splits: the data of the run.
    """
    edited = replace(run, model=net.model, push=net.push)
    weights = class_weights(net.model, run.classes)
    card_of = partial(_card, cards=cards, files=files, splits=splits)
    return Current(
        revision=revision,
        run=edited,
        cards=tuple(card_of(one, classes) for one, classes in zip(net.prototypes, weights, strict=True)),
        forbidden=tuple(
            card_of(one, tuple(ClassWeight(k, run.classes[k], 0.0) for k in one.classes)) for one in net.forbidden
        ),
        net=net,
    )


def _card(
    one: EditedPrototype,
    classes: tuple[ClassWeight, ...],
    *,
    cards: Sequence[Prototype],
    files: PrototypeFiles,
    splits: RunData,
) -> Prototype:
    if one.place is not None:
        picture = _picture(one.place, files, splits)
        source = _source(one.place, picture, splits)
        return Prototype(index=one.number, classes=classes, source=source, picture=picture)
    assert one.origin is not None
    return replace(cards[one.origin], index=one.number, classes=classes)


def _picture(place: Place, files: PrototypeFiles, splits: RunData) -> SeenPicture:
    size = files.image_size
    cell = cell_box(files.grid, place.patch, size)
    return SeenPicture(
        image=LazyPicture(
            load=partial(splits.push.display_image, place.image), shape=(*size, 3), key=("train", place.image)
        ),
        box=cell,
        cell=cell,
        receptive_field_box=files.receptive_field.box(*place.patch),
    )


def _source(place: Place, picture: SeenPicture, splits: RunData) -> PrototypeSource:
    return PrototypeSource(
        image=place.image,
        name=splits.push.sample_name(place.image),
        patch=place.patch,
        activation_box=Box(*picture.box),
        patch_box=Box(*picture.box),
        receptive_field_box=Box(*picture.receptive_field_box),
        distance=0.0,
    )
