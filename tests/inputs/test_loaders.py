from __future__ import annotations

import pytest
import torch

from protokern.inputs.loaders import ordered_loader, shuffled_batches, training_loader
from tests.train.toy import Squares


def test_every_image_comes_once_in_an_epoch() -> None:
    batches = shuffled_batches(23, 5, seed=0, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(23))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert shuffled_batches(23, 5, seed=0, epoch=3) == shuffled_batches(23, 5, seed=0, epoch=3)
    assert shuffled_batches(23, 5, seed=0, epoch=3) != shuffled_batches(23, 5, seed=0, epoch=4)
    assert shuffled_batches(23, 5, seed=0, epoch=3) != shuffled_batches(23, 5, seed=1, epoch=3)


def test_a_single_last_image_joins_the_batch_before() -> None:
    assert [len(batch) for batch in shuffled_batches(11, 5, seed=0, epoch=0)] == [5, 6]
    assert [len(batch) for batch in shuffled_batches(1, 5, seed=0, epoch=0)] == [1]


def test_the_training_loader_gives_exactly_the_batches() -> None:
    dataset = Squares(12, seed=0)
    loaded = list(training_loader(dataset, [[3, 1], [7, 0, 2]], workers=0, seed=0))
    assert [labels.tolist() for _, labels in loaded] == [[0, 1], [1, 0, 2]]
    assert (loaded[0][0][1] == dataset[1][0]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_loader_draws_nothing_from_the_run_s_generator(workers) -> None:
    """Mixup and noise draw from it; a loader made anew in the middle of an epoch must not move it on."""
    before = torch.get_rng_state()
    list(training_loader(Squares(6, seed=0), [[3, 1], [0, 2]], workers=workers, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_ordered_loader_keeps_the_order() -> None:
    labels = [label for _, batch in ordered_loader(Squares(7, seed=0), 3, workers=0) for label in batch.tolist()]
    assert labels == [0, 1, 2, 0, 1, 2, 0]
