"""What a checkpoint holds of where a run stands."""

from __future__ import annotations

import pytest

from protokern.errors import TrainingError
from protokern.runs.progress import Best, EpochSums, Progress

# As versions before this one wrote it in the middle of an epoch.
TABLE = {"loss": 12.5, "cross_entropy": 10.0, "l1": 3.0, "correct": 5.0, "images": 16.0, "seconds": 1.5}


def best(accuracy: float, loss: float = 1.0, epoch: int = 0) -> Best:
    return Best(checkpoint=f"joint-{epoch}", epoch=epoch, accuracy=accuracy, loss=loss)


def test_the_sums_of_an_epoch_are_over_its_images() -> None:
    sums = EpochSums()
    sums.add(0.5, {"cross_entropy": 0.25, "l1": 2.0}, 3.0, 8.0)
    sums.add(1.5, {"cross_entropy": 1.0, "l1": 2.0}, 1.0, 2.0)
    assert (sums.loss, sums.correct, sums.images) == (7.0, 4.0, 10.0)
    assert sums.terms == {"cross_entropy": 4.0, "l1": 20.0}


def test_the_sums_of_a_stopped_epoch_keep_their_table() -> None:
    sums = EpochSums.from_table(TABLE)
    assert sums == EpochSums(loss=12.5, terms={"cross_entropy": 10.0, "l1": 3.0}, correct=5.0, images=16.0, seconds=1.5)
    assert list(sums.to_table().items()) == list(TABLE.items())  # in this order, too
    assert EpochSums().to_table() == {}
    assert Progress.from_table({"sums": {}}).sums == EpochSums()


@pytest.mark.parametrize("name", ["loss", "correct", "images", "seconds"])
def test_a_term_with_the_name_of_another_sum_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f"loss: must name its terms other than .*; got {name}. Rename"):
        EpochSums().add(1.0, {"cross_entropy": 1.0, name: 1.0}, 1.0, 1.0)


def test_joint_epochs_that_are_no_better_are_counted() -> None:
    progress = Progress()
    for epoch, accuracy in enumerate((0.5, 0.5, 0.4, 0.6, 0.1)):
        progress.note_joint(best(accuracy, epoch=epoch))
    assert (progress.best_joint, progress.waited) == (best(0.6, epoch=3), 1)
    progress.forget_joint()
    assert (progress.best_joint, progress.waited) == (None, 0)


def test_of_equal_accuracies_the_lower_loss_is_the_best() -> None:
    progress = Progress()
    for epoch, loss in enumerate((0.9, 0.7, 0.8)):
        progress.note_pushed(best(0.5, loss, epoch))
        progress.note_live(best(0.5, loss, epoch))
    assert progress.best_pushed == progress.best_live == best(0.5, 0.7, 1)


def test_a_step_that_is_done_leaves_no_sums() -> None:
    progress = Progress(position=2, batch=4, sums=EpochSums.from_table(TABLE), seconds={"joint": 1.0})
    progress.finish_step("joint", 2.0, [{"kind": "stage"}], 5)
    assert (progress.position, progress.batch, progress.sums) == (5, 0, EpochSums())
    assert (progress.seconds, progress.results) == ({"joint": 3.0}, [{"kind": "stage"}])
