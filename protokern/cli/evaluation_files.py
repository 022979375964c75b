"""What `protokern evaluate` writes: every number as JSON, the classes and the confusion matrix as CSV.

    OUT/evaluation.json               all of it, and the checksums of the two others
    OUT/evaluation-classes.csv        one row a class
    OUT/evaluation-confusion.csv      one row a true class, one column an answer

They replace those of an earlier evaluation and nothing else.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError
from protokern.train.files import explain_write_errors, read_file, read_json, to_json_bytes, write_file
from protokern.train.formats import check_seal, seal, sha256
from protokern.train.scores import ClassScore, Scores

FORMAT = "protokern-evaluation-1"
TABLE, CLASSES, CONFUSION = "evaluation.json", "evaluation-classes.csv", "evaluation-confusion.csv"
_LARGEST = 2**28  # bytes; a confusion matrix of ten thousand classes


def check_places(folder: Path) -> None:
    """Raise a CheckpointError if a file in `folder` that is no evaluation's, or was changed, would be replaced."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"--out: must be a folder; got the file {folder}. Choose another name.")
    known = _written(folder / TABLE) if os.path.lexists(folder / TABLE) else {}
    for name in (TABLE, CLASSES, CONFUSION):
        path = folder / name
        if not os.path.lexists(path) or (name == TABLE and known is not None):
            continue
        if path.is_symlink() or known is None or sha256(read_file(path, _LARGEST)) != known.get(name):
            raise CheckpointError(
                f"--out: must hold no files of others that would be replaced; got {path}, which 'protokern evaluate' "
                "did not write, or not as it is now. Move it away, or give another folder."
            )


def _written(path: Path) -> Mapping[str, str] | None:
    """The checksums of the files that an evaluation wrote; None if its table is no evaluation's, or was changed."""
    try:
        table = read_json(path, _LARGEST)
        if path.is_symlink() or not isinstance(table, dict) or table.get("format") != FORMAT:
            return None
        check_seal(path, table)
    except CheckpointError:
        return None
    files = table.get("files")
    return files if isinstance(files, dict) else None


def write_evaluation(
    folder: Path,
    facts: Mapping[str, Any],
    scores: Scores,
    classes: Sequence[str],
    confusion: Sequence[Sequence[int]],
    warnings: Sequence[str],
) -> list[Path]:
    """Write the three files; give their paths.

    Args:
        folder: is made if need be.
        facts: of the evaluation as a whole, as the last line of the verb has them.
        scores: class by class.
        classes: names.
        confusion: (K, K) counts, row = true class.
        warnings: sentences.

    Raises:
        CheckpointError: a file of somebody else is in the way, or the disk refuses.
    """
    check_places(folder)
    rows = [_class_row(name, one) for name, one in zip(classes, scores.classes, strict=True)]
    contents = {
        CLASSES: _csv([list(rows[0]), *(["" if value is None else value for value in row.values()] for row in rows)]),
        CONFUSION: _csv(
            [["true class", *classes], *([name, *row] for name, row in zip(classes, confusion, strict=True))]
        ),
    }
    table = {
        "format": FORMAT,
        **facts,
        "classes": rows,
        "confusion": [list(row) for row in confusion],
        "warnings": list(warnings),
        "files": {name: sha256(content) for name, content in contents.items()},
    }
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / TABLE, to_json_bytes(seal(table)))  # first, so that what follows is known to be ours
    for name, content in contents.items():
        write_file(folder / name, content)
    return [folder / name for name in (TABLE, CLASSES, CONFUSION)]


def _class_row(name: str, one: ClassScore) -> dict[str, Any]:
    return {
        "class": name,
        "images": one.images,
        "answers": one.answers,
        "correct": one.correct,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
    }


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
