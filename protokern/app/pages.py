"""What a page gets to draw, as JSON for the renderer of the report: cards, sheets and explanations are the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from protokern.app.outcome import view_edits
from protokern.app.pictures import AddressShelf
from protokern.app.room import Asked, Room
from protokern.explain.images import explain_for_people, with_prototypes
from protokern.explain.prototype_frames import frame_prototypes, other_image
from protokern.explain.prototypes import describe_prototypes
from protokern.explain.shown import Explanation
from protokern.nn import evaluating
from protokern.report.numbers import decimal
from protokern.report.view import Table, View, view_report
from protokern.results.prototypes import Prototype

SEEN_IN_PATCH = 3  # prototypes named for a patch of an image
_NAV = (("ask", "Ask"), ("images", "Images"))
_AFTER = "edits"  # comes after the prototypes
_CHOSEN = "An edit chose this patch. No frame was sought for it, so only the patch is marked."
_CHOSEN_NAME = "chosen by an edit"


def view_page(room: Room, others: list[list[str]]) -> Table:
    """The whole page of a run.

    Args:
        room: the run.
        others: [address, name] of the other runs of the server.
    """
    table = _view(room)
    nav: list[list[str]] = [list(row) for row in table["nav"]]
    at = next(place for place, row in enumerate(nav) if row[0] == "prototypes")
    nav[at + 1 : at + 1] = [[_AFTER, "Edits"]]
    nav[0:1] = [nav[0], *map(list, _NAV)]
    return table | {
        "nav": nav,
        "title": f"{room.name}, protokern app",
        "ask": {"others": others},
        "images": {"classes": list(room.run.classes), "there": room.splits is not None},
        "edits": {},
        "name": room.name,
        "state": view_state(room),
    }


def view_state(room: Room) -> Table:
    """What changes while a page is open: what is being done, and the edits."""
    state: Table = {"doing": room.doing, "refusal": room.refusal, "revision": room.current.revision}
    if room.can_edit:
        state |= view_edits(room, AddressShelf(room.pictures))
    return state


def view_prototypes(room: Room) -> Table:
    """The parts of the page that edits change."""
    table = _view(room)
    return {name: table[name] for name in ("prototypes", "sheets", "texts")}


def _view(room: Room) -> Table:
    """The report, in which prototypes that a person chose say so: no frame was sought for them."""
    table, _ = view_report(room.report(), shelf=AddressShelf(room.pictures))
    net = room.current.net
    if net is None or not room.editor.can_undo:
        return table
    chosen = {one.number for one in (*net.prototypes, *net.forbidden) if one.place is not None}
    tiles = {label: [value, detail] for label, value, detail in table["overview"]["tiles"]}
    forbidden = f"{len(net.forbidden)} more are forbidden" if net.forbidden else ""
    changed = {"Test accuracy": [tiles["Test accuracy"][0], "before the edits"]} if "Test accuracy" in tiles else {}
    changed |= {"Prototypes": [str(len(net.prototypes)), forbidden]}
    table["overview"]["tiles"] = [[label, *row] for label, row in {**tiles, **changed}.items()]
    for sheet in table["sheets"]:
        if sheet["index"] in chosen:
            sheet |= {"proof": _CHOSEN, "proof_name": _CHOSEN_NAME} if table["tested"] else {"proof_name": _CHOSEN_NAME}
    return table


def view_asked(room: Room, asked: Asked, reference: str, *, frame: str) -> Table:
    """The explanation of an image, and which prototypes see something in each of its patches.

    Args:
        room: the run.
        asked: the image.
        reference: what it is asked for by.
        frame: "grid", or "sufficient", which takes seconds.
    """
    explanation = _explain(room, asked, frame)
    view = View(
        links=True,
        shelf=AddressShelf(room.pictures),
        is_tested=frame == "sufficient",
        has_distances=room.run.model.prototype_layer.shows_distance,
        has_exemplars=not room.run.model.pushes,
    )
    activation = _activation_map(room, asked)
    return {
        "run": room.name,
        "item": view.explanation(explanation),
        "ref": reference,
        "split": asked.split,
        "label": asked.label,
        "grid": list(activation.shape[1:]),
        "cells": _cells(room, activation),
        "tested": frame == "sufficient",
    }


def _explain(room: Room, asked: Asked, frame: str) -> Explanation:
    run = room.current.run
    cards = room.explained_cards(frame)
    explanation = explain_for_people(
        run.model,
        asked.pixels,
        asked.name,
        run.classes,
        cards,
        true_class=asked.label,
        receptive_field=None if room.files is None else room.files.field_for(asked.pixels),
        frame=frame,
        other=partial(other_image, room.run, room.files, splits=room.splits),
    )
    return with_prototypes(explanation, _framed(room, explanation, cards)) if frame == "sufficient" else explanation


def _framed(room: Room, explanation: Explanation, cards: tuple[Prototype, ...]) -> list[Prototype]:
    """The cards, those of the run that are shown with their own frames, which are sought if they are missing."""
    if room.files is None:
        return list(cards)
    shown = {match.prototype.index for one in explanation.classes for match in one.matches}
    own = {index for index in shown if index < len(room.files.prototypes)}
    room.files = frame_prototypes(room.run, room.files, room.splits, own)
    framed = describe_prototypes(room.run.model, room.run.classes, room.files, "sufficient")
    return [
        replace(card, picture=framed[card.index].picture)
        if card.index in own and card.source_name == framed[card.index].source_name
        else card
        for card in cards
    ]


def _activation_map(room: Room, asked: Asked) -> Tensor:
    """(P, H', W') of an image."""
    model = room.current.run.model
    with evaluating(model):
        features = model.features(asked.pixels[None].to(model.device, model.dtype))
        layer = model.prototype_layer
        found: Tensor = layer.activate(layer.distance_map(features))[0].float().cpu()
    return found


def _cells(room: Room, activation: Tensor) -> list[list[list[Any]]]:
    """[prototype, similarity] of the prototypes that see most in each patch, row by row."""
    flat = activation.flatten(1).T  # (H'W', P)
    best = flat.topk(min(SEEN_IN_PATCH, flat.shape[1]), dim=1)
    cards = room.current.cards
    return [
        [[cards[row].index, decimal(value)] for row, value in zip(rows, values, strict=True)]
        for rows, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
