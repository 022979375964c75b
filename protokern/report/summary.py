"""The summary of a run for its page: tiles, groups of prototypes, reasons, confusion. No HTML here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from protokern.report.numbers import percent
from protokern.report.pool import PoolView
from protokern.report.words import main_reasons, name_property
from protokern.results.explanations import ClassExplanation, Evidence, Explanation
from protokern.results.prototypes import Prototype
from protokern.results.run import Report, StageResult

LARGEST_MATRIX = 30  # classes; for more, the page lists the most frequent mistakes instead
LONGEST_LIST = 20
UNEVEN = 0.02  # difference of accuracy and balanced accuracy from which the page shows both


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that sums up the run."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CardGroup:
    """Prototypes under one heading.

    Attributes:
        key: for links; unique on the page.
        name: the heading.
        cards: the prototypes.
    """

    key: str
    name: str
    cards: tuple[Prototype, ...]


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """A count, its share of the row, and whether it is on the diagonal."""

    count: int
    share: float
    same: bool


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """One true class."""

    name: str
    cells: tuple[ConfusionCell, ...]


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """A frequent mistake."""

    true_class: str
    answer: str
    count: int


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """One modification over all prototypes that it was measured on.

    Attributes:
        name: what it changes.
        mean: mean of the scores.
        num_main: number of prototypes for which it matters most.
    """

    name: str
    mean: float
    num_main: int


@dataclass(frozen=True, slots=True)
class Example:
    """A match that shows how the page is read: an image, the class it is explained for, and its strongest match."""

    item: Explanation
    one: ClassExplanation
    match: Evidence


def choose_example(explanations: Iterable[Explanation]) -> Example | None:
    """The first right answer with a reason that has a picture; otherwise the first answer with such a reason."""
    found = []
    for item in explanations:
        one = item.classes[0]
        match = next((match for match in one.reasons if match.prototype.picture), None)
        if match is not None:
            found.append(Example(item, one, match))
    return next((example for example in found if not example.item.is_wrong), found[0] if found else None)


def make_reason_rows(cards: Iterable[Prototype]) -> list[ReasonRow]:
    """A row per modification, sorted by the number of prototypes to which it matters most; empty if not measured."""
    scores: dict[str, list[float]] = {}
    num_main: Counter[str] = Counter()
    for card in cards:
        for one in card.reasons:
            scores.setdefault(one.modification, []).append(one.score)
        num_main.update(one.modification for one in main_reasons(card.reasons, card.mean_similarity)[:1])
    rows = [
        ReasonRow(name_property(name), sum(values) / len(values), num_main[name]) for name, values in scores.items()
    ]
    return sorted(rows, key=lambda row: (-row.num_main, -row.mean))


def make_tiles(data: Report, pool: PoolView | None) -> list[Tile]:
    """The numbers at the top of the page."""
    tiles: list[Tile] = []
    last_test = next((row.test_accuracy for row in reversed(data.stages) if row.test_accuracy is not None), None)
    if data.confusion is not None and data.confusion.num_images:
        right, total = data.confusion.num_correct, data.confusion.num_images
        tiles.append(Tile("Test accuracy", percent(right / total), f"{right} of {total} images"))
        if data.scores is not None and abs(data.scores.balanced_accuracy - right / total) >= UNEVEN:
            tiles.append(Tile("Balanced accuracy", percent(data.scores.balanced_accuracy), "every class counts alike"))
        if data.confusion.unanswered is not None:
            none = data.confusion.num_unanswered
            tiles.append(Tile("None of these", percent(none / total), f"{none} of {total} images got no answer"))
    elif last_test is not None:
        tiles.append(Tile("Test accuracy", percent(last_test)))
    before, after = _around_the_push(data.stages)
    if before is not None and after is not None:
        tiles.append(Tile("Right after the push", percent(after), f"{percent(before)} before it"))
    most = max([len(data.prototypes), *(row.num_prototypes for row in data.stages)])
    pruned = f"of {most} before pruning" if most > len(data.prototypes) else ""
    unused = f"{len(pool.unused)} used by no class" if pool and pool.unused else ""
    tiles.append(Tile("Prototypes", str(len(data.prototypes)), ", ".join(filter(None, (pruned, unused)))))
    if pool:
        tiles.append(Tile("Shared", str(len(pool.shared)), "by two classes or more"))
    tiles.append(Tile("Classes", str(len(data.classes))))
    return tiles


def _around_the_push(stages: Iterable[StageResult]) -> tuple[float | None, float | None]:
    """Test accuracy before and right after the last push."""
    before = after = previous = None
    for row in stages:
        if row.stage == "push":
            before, after = previous, row.test_accuracy
        previous = row.test_accuracy
    return before, after


def group_by_class(data: Report) -> list[CardGroup]:
    """The prototypes of every class that has prototypes."""
    cards: list[list[Prototype]] = [[] for _ in data.classes]
    for card in data.prototypes:
        for index in sorted({one.class_index for one in card.classes}):
            cards[index].append(card)
    return [CardGroup(f"class-{index}", data.classes[index], tuple(some)) for index, some in enumerate(cards) if some]


def group_by_use(data: Report) -> list[CardGroup]:
    """Every prototype once: shared prototypes first, unused ones last."""
    none = ("unchosen", "Not chosen yet") if data.still_chooses else ("unused", "Used by no class")
    headings = {"shared": "Shared by several classes", "single": "Used by one class", none[0]: none[1]}
    cards: dict[str, list[Prototype]] = {key: [] for key in headings}
    for card in data.prototypes:
        cards["shared" if len(card.classes) > 1 else "single" if card.classes else none[0]].append(card)
    return [CardGroup(f"group-{key}", name, tuple(cards[key])) for key, name in headings.items() if cards[key]]


def list_filter_classes(data: Report) -> list[tuple[str, str]]:
    """The classes to choose from: value and name of every class with prototypes, and of "no class" if needed."""
    used = {one.class_index for card in data.prototypes for one in card.classes}
    choices = [(str(index), name) for index, name in enumerate(data.classes) if index in used]
    has_unused = bool(used) and not all(card.classes for card in data.prototypes)
    return [*choices, ("none", "used by no class")] if has_unused else choices


def make_confusion_rows(data: Report) -> tuple[ConfusionRow, ...]:
    """The confusion matrix, one row per true class; empty if it is too large or unknown."""
    if data.confusion is None or len(data.classes) > LARGEST_MATRIX:
        return ()
    rows = []
    for index, (name, counts) in enumerate(zip(data.classes, data.confusion.counts.tolist(), strict=True)):
        total = max(1, sum(counts))
        cells = tuple(ConfusionCell(count, count / total, column == index) for column, count in enumerate(counts))
        rows.append(ConfusionRow(name, cells))
    return tuple(rows)


def list_confused_pairs(data: Report) -> tuple[ConfusedPair, ...]:
    """The most frequent mistakes; empty if the matrix shows them or is unknown."""
    if data.confusion is None or len(data.classes) <= LARGEST_MATRIX:
        return ()
    mistakes = data.confusion.counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:LONGEST_LIST]
    places = [divmod(int(place), len(data.classes)) for place in order]
    return tuple(
        ConfusedPair(data.classes[row], data.classes[column], int(mistakes[row, column]))
        for row, column in places
        if mistakes[row, column]
    )
