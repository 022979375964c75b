"""The patches nearest to every prototype, as the page of a run and figures show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from protokern.data import ImageDataset, Splits
from protokern.explain.framing import drawn_box
from protokern.explain.neighbours import GlobalExplanation, SplitNeighbours, find_neighbours, view_neighbours
from protokern.inputs.loaders import ordered_loader
from protokern.report.data import LazyPicture, Neighbour, Neighbours, PrototypeCard, SeenPicture
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles


def add_neighbours(
    cards: Sequence[PrototypeCard], run: OpenRun, splits: Splits, files: PrototypeFiles, k: int, frame: str = "grid"
) -> tuple[PrototypeCard, ...]:
    """Give every prototype that is a patch of an image the k patches nearest to it, in training and in test images.

    One pass over each of the two, and one over the images that are shown. No picture is kept: each is read when the
    page draws it. The patch that a prototype is does not count as its neighbour.

    Args:
        cards: of all prototypes of the run's model.
        run: after a push.
        splits: its data.
        files: its prototypes.
        k: neighbours in each of the two, at least 1.
        frame: as in `see_neighbours`.
    """
    shown = [card.index for card in cards if card.picture is not None]
    return see_neighbours(cards, run, splits, files, find_in_splits(run, splits, files, k), shown, frame)


def find_in_splits(run: OpenRun, splits: Splits, files: PrototypeFiles, k: int) -> GlobalExplanation:
    """The k patches nearest to every prototype of a run, after a push, in training and in test images."""
    batch_size, workers = run.config.train.batch_size, run.config.data.workers
    train, test = (ordered_loader(one, batch_size, workers) for one in (splits.push, splits.test))
    assert run.push is not None
    # By name: the data may have grown since the push, or be others.
    positions = {splits.push.sample_name(index): index for index in range(len(splits.push))}
    names = [None if record.source is None else record.source.name for record in files.prototypes]
    own = torch.tensor([-1 if name is None else positions.get(name, -1) for name in names], dtype=torch.int64)
    return find_neighbours(run.model, train, test, k, push=replace(run.push, image=own))


def see_neighbours(
    cards: Sequence[PrototypeCard],
    run: OpenRun,
    splits: Splits,
    files: PrototypeFiles,
    found: GlobalExplanation,
    prototypes: Sequence[int],
    frame: str = "grid",
) -> tuple[PrototypeCard, ...]:
    """Give some prototypes the neighbours that `find_in_splits` found; the other cards stay.

    `frame` says which box is shown, see `drawn_box`; for "sufficient", which nobody seeks here, the cell of the patch.
    """
    train = _neighbours("train", splits.push, found.train, run, files, prototypes, frame)
    test = _neighbours("test", splits.test, found.test, run, files, prototypes, frame)
    return tuple(
        replace(
            card,
            neighbours=Neighbours(
                train=tuple(train[card.index]),
                test=tuple(test[card.index]),
                agreement_train=float(found.train.agreement[card.index]),
                agreement_test=float(found.test.agreement[card.index]),
            ),
        )
        if card.index in train
        else card
        for card in cards
    )


def _neighbours(
    split: str,
    dataset: ImageDataset,
    found: SplitNeighbours,
    run: OpenRun,
    files: PrototypeFiles,
    prototypes: Sequence[int],
    frame: str,
) -> dict[int, list[Neighbour]]:
    """The neighbours of some prototypes in one data set, nearest first, by prototype."""
    by_rank: dict[int, dict[int, Neighbour]] = {index: {} for index in prototypes}
    field = files.field_for(dataset[0][0]) if len(dataset) else None
    for rank, image, pixels, view in view_neighbours(run.model, dataset, found, prototypes, receptive_field=field):
        index = view.prototype
        by_rank[index][rank] = Neighbour(
            picture=SeenPicture(
                image=LazyPicture(
                    load=partial(dataset.display_image, image), shape=(*pixels.shape[1:], 3), key=(split, image)
                ),
                box=view.cell if frame == "sufficient" else drawn_box(view, frame),
                receptive_field_box=view.receptive_field_box,
            ),
            name=dataset.sample_name(image),
            class_name=run.classes[int(found.label[index, rank])],
            similarity=float(found.similarity[index, rank]),
            distance=float(found.distance[index, rank]),
            patch_box=view.patch_box,
        )
    return {index: [of_rank[rank] for rank in sorted(of_rank)] for index, of_rank in by_rank.items()}
