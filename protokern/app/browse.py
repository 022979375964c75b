"""The images of a run by what the net answers, and by what its prototypes see in them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from protokern.app.pictures import AddressShelf
from protokern.app.room import Asked, Room
from protokern.errors import DataError
from protokern.explain.boxes import cell_box
from protokern.nn import PrototypeLayer, evaluating
from protokern.report.images import Shelf
from protokern.report.numbers import decimal, percent, short
from protokern.report.view import Table, View
from protokern.results.places import Box, LazyPicture, SeenPicture
from protokern.results.prototypes import Neighbour, Prototype

PAGE = 24  # images at a time
NEAR = 8  # patches
DECIDED = 12  # images
VERDICTS, ORDERS = ("all", "right", "wrong"), ("data", "unsure", "sure")


def lazy_picture(room: Room, split: str, index: int) -> LazyPicture:
    """An image of the data, as people see it."""
    images = room.images(split)
    rows, columns = images[index][0].shape[1:] if room.files is None else room.files.image_size
    return LazyPicture(load=partial(images.display_image, index), shape=(rows, columns, 3), key=(split, index))


def picture_of(room: Room, shelf: Shelf, split: str, index: int) -> list[int | str]:
    """[address, rows, columns] of an image of the data."""
    picture = lazy_picture(room, split, index)
    return [shelf.find(picture).index, *picture.shape[:2]]


def view_images(room: Room, *, split: str, of_class: int | None, verdict: str, order: str, start: int) -> Table:
    """Some images of a split.

    Args:
        room: the run.
        split: "train", "val" or "test".
        of_class: whose images; None: of all.
        verdict: "all", "right" or "wrong".
        order: "data", "unsure" or "sure" first.
        start: how many to leave out, from 0.

    Raises:
        DataError: an argument is wrong, or the images were not read yet.
    """
    if verdict not in VERDICTS or order not in ORDERS or start < 0:
        raise DataError("images: must be asked for as all, right or wrong, in the order data, unsure or sure.")
    if of_class is not None and not 0 <= of_class < len(room.run.classes):
        raise DataError(f"class: must be from 0 to {len(room.run.classes) - 1}; got {of_class}.")
    answers = room.answers(split)
    is_right, probability = answers.is_right, answers.probability
    chosen = torch.ones(len(answers.labels), dtype=torch.bool)
    if of_class is not None:
        chosen &= answers.labels == of_class
    if verdict != "all":
        chosen &= is_right == (verdict == "right")
    found = chosen.nonzero().flatten()
    if order != "data":
        found = found[probability[found].argsort(descending=order == "sure", stable=True)]
    shelf, images, names = AddressShelf(room.pictures), room.images(split), room.run.classes
    rows = []
    for index in found[start : start + PAGE].tolist():
        answer = "none of these" if answers.abstains[index] else names[int(answers.answer[index])]
        rows.append(
            [
                f"{split}/{index}",
                picture_of(room, shelf, split, index),
                images.sample_name(index),
                names[int(answers.labels[index])],
                answer,
                bool(is_right[index]),
                percent(float(probability[index])),
            ]
        )
    return {"total": len(found), "all": len(chosen), "right": int(is_right.sum()), "start": start, "rows": rows}


def view_near(room: Room, number: int) -> Table:
    """The patches nearest to a prototype, and the images in which it decided.

    Raises:
        DataError: there is no such prototype, or the images were not read yet.
    """
    row = _row_of(room, number)
    card = room.current.cards[row]
    view = View(links=True, shelf=AddressShelf(room.pictures), has_distances=_has_distances(room))
    train, test = (_nearest(room, split, row, card) for split in ("train", "test"))
    return {
        "near": [view.neighbours(card, [near for near, _ in found]) for found in (train, test)],
        "places": [place for _, place in train],
        "decided": _decided(room, view, row),
        "texts": view.texts,
    }


def _row_of(room: Room, number: int) -> int:
    row = room.current.row_of(number)
    if row is None:
        raise DataError(f"prototype: must be one that the net uses; got {number}.")
    return row


def _has_distances(room: Room) -> bool:
    return room.run.model.prototype_layer.shows_distance


def _nearest(room: Room, split: str, row: int, card: Prototype) -> list[tuple[Neighbour, list[Any]]]:
    """The nearest patches, at most one of an image, without the prototype itself; each with its image and place."""
    answers, images = room.answers(split), room.images(split)
    distance = answers.distance[:, row]
    order = distance.argsort(stable=True)[: NEAR + 1].tolist()
    own = card.source_name if split == "train" else None
    found: list[tuple[Neighbour, list[Any]]] = []
    for index in order:
        name = images.sample_name(index)
        if name == own or len(found) == NEAR:
            continue
        flat = int(answers.patch[index, row])
        near = Neighbour(
            picture=_seen(room, split, index, flat, answers.grid),
            name=name,
            class_name=room.run.classes[int(answers.labels[index])],
            similarity=float(answers.activation[index, row]),
            distance=float(distance[index]),
            patch_box=None,
        )
        found.append((near, [name, list(divmod(flat, answers.grid[1]))]))
    return found


def _seen(
    room: Room, split: str, index: int, flat: int, grid: tuple[int, int], size: tuple[int, int] = (1, 1)
) -> SeenPicture:
    """An image with a window of patches in a frame."""
    picture = lazy_picture(room, split, index)
    rows, columns = picture.shape[:2]
    row, column = divmod(flat, grid[1])
    # The grid of cells has one for each vector of the map.
    first = cell_box(grid, (row, column), (rows, columns))
    last = cell_box(grid, (row + size[0] - 1, column + size[1] - 1), (rows, columns))
    field = (0, 0, rows, columns) if room.files is None else room.files.receptive_field.box(row, column, size)
    return SeenPicture(image=picture, box=Box(first.y0, first.x0, last.y1, last.x1), receptive_field_box=field)


def _decided(room: Room, view: View, row: int) -> Table | None:
    """The test images whose answer got more points from this prototype than from any other; None without points."""
    model = room.current.run.model
    if model.reasons != "points":
        return None
    answers, names = room.answers("test"), room.run.classes
    weight = model.prototype_weight.detach().float().cpu()  # (K, P)
    points = answers.activation * weight[answers.answer]  # (N, P)
    largest, first = points.max(dim=1)
    chosen = ((first == row) & (largest > 0)).nonzero().flatten()
    order = chosen[largest[chosen].argsort(descending=True, stable=True)][:DECIDED]
    return {
        "count": len(chosen),
        "of": len(largest),
        "wrong": int((~answers.is_right[chosen]).sum()),
        "rows": [
            [
                f"test/{index}",
                view.place(_seen(room, "test", index, int(answers.patch[index, row]), answers.grid)),
                names[int(answers.answer[index])],
                bool(answers.is_right[index]),
                decimal(float(largest[index])),
            ]
            for index in order.tolist()
        ],
    }


def view_window(room: Room, asked: Asked, window: tuple[int, int, int, int]) -> Table:
    """The training patches nearest to a window of an image's patches.

    Args:
        room: the run.
        asked: the image.
        window: (row, column, rows, columns) in its grid of patches.

    Raises:
        DataError: the window is not in the grid, or the images were not read yet.
    """
    features = room.features("train")
    model = room.current.run.model
    with evaluating(model):
        maps = model.features(asked.pixels[None].to(model.device, model.dtype))[0]
    row, column, height, width = window
    is_inside = row >= 0 <= column and height > 0 < width
    if not is_inside or row + height > maps.shape[1] or column + width > maps.shape[2]:
        raise DataError(f"window: must be in the grid of {maps.shape[1]} x {maps.shape[2]} patches.")
    query = maps[:, row : row + height, column : column + width]
    layer = PrototypeLayer(1, len(maps), (height, width), metric=_metric(room), activation="linear").to(maps)
    layer.set_prototypes(query[None] if (height, width) != (1, 1) else query[None, :, 0, 0])
    distances, patches = [], []
    with evaluating(layer), torch.no_grad():
        for batch, _ in features:
            distance, patch = layer.min_distance(batch, exact=True)
            distances.append(distance[:, 0].cpu())
            patches.append(patch[:, 0].cpu())
    distance, patch = torch.cat(distances), torch.cat(patches)
    grid = (maps.shape[1] - height + 1, maps.shape[2] - width + 1)
    return {"rows": _rows_of_window(room, asked, distance, patch, grid, (height, width))}


def _metric(room: Room) -> str:
    """Of the distances of windows: that of the net, if it has one between patches."""
    layer = room.current.run.model.prototype_layer
    return layer.metric if isinstance(layer, PrototypeLayer) and layer.metric != "dot" else "cosine"


def _rows_of_window(
    room: Room, asked: Asked, distance: Tensor, patch: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> list[list[Any]]:
    """[reference, picture with the window, name, class, distance, middle patch] of the nearest windows."""
    view, images = View(links=True, shelf=AddressShelf(room.pictures)), room.images("train")
    rows: list[list[Any]] = []
    cells = (grid[0] + size[0] - 1, grid[1] + size[1] - 1)
    for index in distance.argsort(stable=True)[: NEAR + 1].tolist():
        if len(rows) == NEAR or (asked.split == "train" and index == asked.index):
            continue
        row, column = divmod(int(patch[index]), grid[1])
        seen = _seen(room, "train", index, row * cells[1] + column, cells, size)
        rows.append(
            [
                f"train/{index}",
                view.place(seen),
                images.sample_name(index),
                room.run.classes[images.labels[index]],
                short(float(distance[index])),
                [row + (size[0] - 1) // 2, column + (size[1] - 1) // 2],
            ]
        )
    return rows
