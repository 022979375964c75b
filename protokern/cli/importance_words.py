"""What `protokern importance` prints: tables that fit a terminal, and what they say in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protokern.report.words import join_names, main_reasons
from protokern.results.importance import Comparison, GlobalImportance, ImportanceBatch, Reason

LEVEL = 0.05  # p-values below it are called a difference
_UNKNOWN = "-"


def summary_lines(train: GlobalImportance, test: GlobalImportance, comparisons: Sequence[Comparison]) -> list[str]:
    """The global scores of a model: a table with a line for every property, and what stands out."""
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
    """The local scores of one image for some prototypes, a line for each."""
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
    """Columns of equal width; the first and a last one of words are flush left, numbers flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if not rows[0][-1]:
            cells[-1] = row[-1]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
