"""From the nearest patches in data sets to what a page or a figure shows of them."""

from __future__ import annotations

from collections.abc import Sequence

from protokern.cli.runs import OpenRun
from protokern.cli.views import see
from protokern.data import ImageDataset, Splits
from protokern.explain.neighbours import (
    NEIGHBOURS,
    GlobalExplanation,
    SplitNeighbours,
    find_neighbours,
    view_neighbours,
)
from protokern.explain.pictures import to_picture
from protokern.explain.receptive_field import ReceptiveField
from protokern.report.data import Neighbour, Neighbours
from protokern.train.loaders import ordered_loader


def find_in_splits(run: OpenRun, splits: Splits, k: int = NEIGHBOURS) -> GlobalExplanation:
    """The nearest patches of every prototype of a run; its own patch does not count.

    Raises:
        ValueError: the data are not those of the run, or the model still chooses.
    """
    batch_size, workers = run.config.train.batch_size, run.config.data.workers
    train, test = (ordered_loader(dataset, batch_size, workers) for dataset in (splits.push, splits.test))
    return find_neighbours(run.model, train, test, k, push=run.push)


def see_neighbours(
    run: OpenRun,
    splits: Splits,
    found: GlobalExplanation,
    prototypes: Sequence[int],
    receptive_field: ReceptiveField | None = None,
    *,
    with_heat: bool = False,
) -> dict[int, Neighbours]:
    """The neighbours of some prototypes with their pictures, by prototype.

    Every image goes through the net once, and its picture is one array that all neighbours in it share.

    Args:
        run: an opened run.
        splits: its data.
        found: by `find_in_splits`.
        prototypes: whose neighbours are wanted.
        receptive_field: of the model for images of this size, if known.
        with_heat: also draw the heat maps, one picture for each neighbour.
    """
    train = _see_split(run, splits.push, found.train, prototypes, receptive_field, with_heat)
    test = _see_split(run, splits.test, found.test, prototypes, receptive_field, with_heat)
    return {
        j: Neighbours(
            train=train[j],
            test=test[j],
            agreement_train=float(found.train.agreement[j].nan_to_num(0)),
            agreement_test=float(found.test.agreement[j].nan_to_num(0)),
        )
        for j in prototypes
    }


def _see_split(
    run: OpenRun,
    dataset: ImageDataset,
    split: SplitNeighbours,
    prototypes: Sequence[int],
    field: ReceptiveField | None,
    with_heat: bool,
) -> dict[int, tuple[Neighbour, ...]]:
    by_rank: dict[int, dict[int, Neighbour]] = {j: {} for j in prototypes}
    last, picture = -1, None
    for one in view_neighbours(run.model, dataset, split, prototypes, receptive_field=field):
        j = one.view.prototype
        if picture is None or one.image != last:
            last, picture = one.image, to_picture(one.pixels)
        by_rank[j][one.rank] = Neighbour(
            picture=see(picture, one.view, "upsample" if with_heat else None),
            name=dataset.sample_name(one.image),
            class_name=run.classes[int(split.label[j, one.rank])],
            similarity=float(split.similarity[j, one.rank]),
            distance=float(split.distance[j, one.rank]),
        )
    return {j: tuple(ranked[rank] for rank in sorted(ranked)) for j, ranked in by_rank.items()}
