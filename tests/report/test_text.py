"""What is said about importance claims no more than the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protokern.explain.importance_statistics import compare_importance
from protokern.report.text import importance_lines, local_lines
from protokern.results.importance import GlobalImportance, ImportanceBatch


def scores(hue: list[float], shape: list[float], *, width: float = 0.1) -> GlobalImportance:
    score = np.array([hue, shape])
    return GlobalImportance(
        names=("hue", "shape"),
        score=score,
        low=score - width,
        high=score + width,
        similarity=np.ones(len(hue)),
        num_images=1,
    )


def said(train: GlobalImportance, test: GlobalImportance) -> list[str]:
    return importance_lines(train, test, compare_importance(train, test))[4:]


def test_the_top_reason_and_a_difference_between_train_and_test() -> None:
    train = scores([2.0, 2.1, 2.2, 0.3], [0.5, 0.4, 0.6, 0.9])
    test = scores([2.0, 2.1, 2.2, 0.3], [1.5, 1.4, 1.6, 1.5])
    assert said(train, test) == [
        "Mostly hue: changing it takes 1.650 off the similarity on average; "
        "its score is the highest for 3 of 4 prototypes.",
        "Train and test differ in shape (Welch's test, p < 0.05).",
    ]


def test_an_interval_that_holds_zero_is_no_certain_reason() -> None:
    train = scores([0.3, 0.05, 0.2], [0.1, 0.01, 0.1])
    lines = said(train, train)
    assert lines[1].startswith("For 1 of 3 prototypes no change lowers the similarity for certain: ")
    assert lines[2] == "Train and test do not differ in any of them (Welch's test, p >= 0.05)."
    unknown = scores([0.3, 0.05, 0.2], [0.1, 0.01, 0.1], width=np.nan)
    assert said(unknown, unknown)[1].startswith("For 3 of 3 prototypes no change")


def test_where_nothing_is_lost_nothing_is_claimed() -> None:
    train = scores([-0.3, -0.2], [-0.1, 0.0])
    assert said(train, train)[0] == "On average none of the changes takes much off the similarity."


def test_what_takes_less_than_a_twentieth_off_is_no_reason() -> None:
    small = replace(scores([0.3, 0.2], [0.1, 0.1]), similarity=np.full(2, 8.0))
    assert said(small, small)[0] == "On average none of the changes takes much off the similarity."


def test_reasons_that_are_close_are_both_named() -> None:
    close = scores([0.5, 0.7], [0.5, 0.5])
    assert said(close, close)[0].startswith("Most of all hue: ")
    assert said(close, close)[0].endswith(" Next: shape.")


def test_an_image_gets_the_words_that_its_page_has() -> None:
    delta = np.array([[[2.0, 0.1, 2.0], [0.5, 0.1, 1.5]]])  # (1 image, 2 modifications, 3 prototypes)
    similarity = np.full((1, 3), 8.0)
    batch = ImportanceBatch(
        first=0,
        names=("hue", "shape"),
        delta=delta,
        similarity=similarity,
        distance=similarity,
        modified_distance=delta,
        patch=similarity,
    )
    title, _, *lines = local_lines("bird.jpg: jay", [0, 1, 2], batch, 0)
    assert title == "bird.jpg: jay"
    assert [line.split("  ")[-1] for line in lines] == ["mostly hue", "none of these", "hue, shape"]


def test_a_single_prototype_has_no_test_to_speak_of() -> None:
    train = scores([0.3], [0.1])
    lines = importance_lines(train, train, compare_importance(train, train))
    assert lines[2].split() == ["hue", "0.300", "-", "0.300", "-", "1", "of", "1", "-", "-", "-"]
    assert not any("Welch's test" in line for line in lines[4:])
