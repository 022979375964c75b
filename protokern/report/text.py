"""Results as lines for a terminal: explanations, nearest patches, what matters to prototypes, scores of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from protokern.report.numbers import percent
from protokern.report.words import (
    join_names,
    main_reasons,
    name_classes,
    name_foreign,
    name_sharers,
    name_slots,
    say_end,
    say_nothing,
    say_role,
)
from protokern.results.explanations import ClassExplanation, DecisionEnd, Explanation
from protokern.results.importance import Comparison, GlobalImportance, ImportanceBatch, Reason
from protokern.results.prototypes import GlobalExplanation, Prototype
from protokern.results.scores import Scores
from protokern.storage.names import one_line

LEVEL = 0.05  # p-values below it are called a difference
_UNKNOWN = "-"
_MOST_NAMED = 10
_MOST_ROWS = 30  # classes in a table on a terminal; of more classes the worst are shown


def explanation_lines(item: Explanation) -> list[str]:
    """An explanation in a few lines of plain text."""
    first, *others = item.classes
    if item.end is not None:
        return _path_lines(item, item.end)
    if item.abstains:
        return [f"{one_line(item.name)}: {item.predicted_class}. {say_nothing(item)}"]
    lines = [f"{one_line(item.name)}: {first.class_name}, {first.total:.2f} points ({first.probability:.1%})"]
    for match in first.matches:
        card = match.prototype
        source = f" from {one_line(card.source_name)}" if card.source_name is not None else ""
        role = "" if match.is_reason else f": {say_role(match)}, so no reason for it"
        place = f"{name_slots(match.slots)}, {name_sharers(match, first)}" if match.slots else name_classes(card)
        lines.append(
            f"  {match.points:8.2f} = {match.similarity:.2f} x {match.weight:.2f}"
            f"  looks like prototype {card.index} ({place}){source}{role}"
        )
    if first.num_own:
        lines.append(f"  {first.own_points:8.2f}   {first.num_own} other prototypes of {first.class_name}, together")
    if first.num_foreign:
        lines.append(f"  {first.foreign_points:8.2f}   {first.num_foreign} prototypes {name_foreign(first)}, together")
    if first.bias:
        lines.append(f"  {first.bias:8.2f}   bias of {first.class_name}")
    lines.append("  then " + ", ".join(_ranked(others)))
    return lines


def _path_lines(item: Explanation, end: DecisionEnd) -> list[str]:
    first, *others = item.classes
    lines = [f"{one_line(item.name)}: {first.class_name} ({first.probability:.1%})"]
    for match in first.matches:
        card = match.prototype
        source = f" from {one_line(card.source_name)}" if card.source_name is not None else ""
        has = "looks like" if match.is_present else "has nothing like"
        lines.append(f"  {match.similarity:6.1%}  {has} prototype {card.index}{source}")
    name, probability = item.class_names[end.classes[0][0]], end.classes[0][1]
    lines.append(f"  then leaf {end.leaf}: {name} ({probability:.1%}). {say_end(end)}")
    lines.append("  then " + ", ".join(f"{one.class_name} ({one.probability:.1%})" for one in others))
    return lines


def _ranked(classes: Iterable[ClassExplanation]) -> list[str]:
    return [f"{one.class_name} {one.total:.2f} ({one.probability:.1%})" for one in classes]


def neighbours_lines(prototypes: Sequence[Prototype], found: GlobalExplanation) -> list[str]:
    """How many of the given prototypes belong together with their nearest patches, and which do not."""
    together = found.belong_together
    apart = [one for one in prototypes if not together[one.index]]
    count = len(prototypes)
    lines = [f"{count - len(apart)} of {count} prototypes belong together with their nearest patches"]
    for one in apart[:_MOST_NAMED]:
        shares = (_percent(float(split.agreement[one.index])) for split in (found.train, found.test))
        names = ", ".join(own.class_name for own in one.classes)
        lines.append(
            f"  not prototype {one.index} ({names or 'of no class'}): "
            f"{' of the training and '.join(shares)} of the test patches are of its class"
        )
    if len(apart) > _MOST_NAMED:
        lines.append(f"  and {len(apart) - _MOST_NAMED} more")
    return lines


def _percent(share: float) -> str:
    return "none" if share != share else f"{share:.0%}"


def score_table(scores: Scores, classes: Iterable[str], images: str, *, abstained: float | None = None) -> list[str]:
    """Precision, recall and F1 of every class as lines; of more than thirty classes those with the lowest F1.

    Args:
        scores: of the classes.
        classes: names.
        images: the name of the split: "test", "validation" or "training".
        abstained: share of the images without an answer; None: the model always answers.
    """
    rows = list(zip(classes, scores.classes, strict=True))
    shown = rows
    if len(rows) > _MOST_ROWS:
        kept = sorted(range(len(rows)), key=lambda index: rows[index][1].f1 or 0.0)[:_MOST_ROWS]
        shown = [rows[index] for index in sorted(kept)]
    width = max(len("class"), *(len(name) for name, _ in shown))
    lines = [f"{'class':<{width}}  images  answers  correct  precision  recall      F1"]
    for name, one in shown:
        counts = f"{one.images:>6}  {one.answers:>7}  {one.correct:>7}"
        lines.append(
            f"{name:<{width}}  {counts}  {percent(one.precision):>9}  {percent(one.recall):>6}  {percent(one.f1):>6}"
        )
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} classes with a higher F1")
    lines.append(
        f"{sum(one.images for one in scores.classes)} {images} images: accuracy {percent(scores.accuracy)}, "
        f"balanced accuracy (mean recall) {percent(scores.balanced_accuracy)}, "
        f"mean F1 {percent(scores.macro_f1)}"
    )
    if abstained is not None:
        lines.append(f"none of these: {percent(abstained)} of them, which count as wrong")
    return lines


def importance_lines(train: GlobalImportance, test: GlobalImportance, comparisons: Sequence[Comparison]) -> list[str]:
    """The global scores of a model: a table with one line per property, and its main points in words."""
    num_prototypes = train.score.shape[1]
    header = ["property", "train mean", "std", "test mean", "std", "first for", "Welch p", "Shapiro p: train", "test"]
    rows = [
        [
            one.name,
            f"{one.train.mean:.3f}",
            _show(one.train.std, ".3f"),
            f"{one.test.mean:.3f}",
            _show(one.test.std, ".3f"),
            f"{one.first_for} of {num_prototypes}",
            _show(one.welch_p, ".2g"),
            _show(one.train.shapiro_p, ".2g"),
            _show(one.test.shapiro_p, ".2g"),
        ]
        for one in sorted(comparisons, key=lambda one: -one.train.mean)
    ]
    title = (
        f"similarity lost by changing a property; {num_prototypes} prototypes, "
        f"{train.num_images} training and {test.num_images} test images"
    )
    return [title, *_aligned([header, *rows]), *_sentences(train, comparisons)]


def local_lines(title: str, prototypes: Sequence[int], batch: ImportanceBatch, index: int) -> list[str]:
    """The local scores of one image for some prototypes, one line per prototype."""
    rows = [["prototype", "similarity", *batch.names, ""]]
    for prototype in prototypes:
        lost = batch.delta[index, :, prototype].tolist()
        similarity = float(batch.similarity[index, prototype])
        main = main_reasons(list(map(Reason, batch.names, lost)), similarity)
        word = ("mostly " if len(main) == 1 else "") + join_names(
            [one.modification for one in main] or ["none of these"]
        )
        rows.append([str(prototype), f"{similarity:.3f}", *(f"{value:.3f}" for value in lost), word])
    return [title, *_aligned(rows)]


def _sentences(train: GlobalImportance, comparisons: Sequence[Comparison]) -> list[str]:
    num_prototypes = train.score.shape[1]
    main = main_reasons([Reason(one.name, one.train.mean) for one in comparisons], float(train.similarity.mean()))
    if not main:
        lines = ["On average none of the changes takes much off the similarity."]
    else:
        top = next(one for one in comparisons if one.name == main[0].modification)
        others = f" Next: {join_names([one.modification for one in main[1:]])}." if len(main) > 1 else ""
        lines = [
            f"{'Most of all' if others else 'Mostly'} {top.name}: changing it takes {top.train.mean:.3f} off the "
            "similarity on average; its score is the highest for "
            f"{top.first_for} of {num_prototypes} prototypes.{others}"
        ]
    first = train.score.argmax(axis=0)
    low = train.low[first, np.arange(num_prototypes)]
    unclear = int((~(low > 0)).sum())  # an unknown interval proves nothing
    if unclear:
        lines.append(
            f"For {unclear} of {num_prototypes} prototypes no change lowers the similarity for certain: "
            "the 95 % interval of the highest score holds 0, or is unknown."
        )
    known = [one for one in comparisons if one.welch_p is not None]
    differing = [one.name for one in known if one.welch_p is not None and one.welch_p < LEVEL]
    if differing:
        lines.append(f"Train and test differ in {', '.join(differing)} (Welch's test, p < {LEVEL}).")
    elif known:
        lines.append(f"Train and test do not differ in any of them (Welch's test, p >= {LEVEL}).")
    return lines


def _show(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else format(value, form)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns of equal width; the first column and a last one of words are flush left, numbers flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if not rows[0][-1]:
            cells[-1] = row[-1]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
