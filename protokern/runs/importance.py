"""The importance of visible properties as files of a run.

    RUN/importance/train.csv         global scores over the training images: prototype, modification, score, low, high
    RUN/importance/test.csv          the same over the test images
    RUN/importance/importance.json   both, how they were made, and how they compare
    RUN/importance/importance.svg    their spread over the prototypes; the same as importance.png
    RUN/importance/*-local.csv       one line for each image, prototype and modification; only when asked for

Only the JSON file is read again. It is written last and removed first, so that it never describes other files than
those beside it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protokern.errors import CheckpointError
from protokern.push import PushResult
from protokern.report.importance_figure import write_importance_figure
from protokern.results.importance import Comparison, GlobalImportance, ImportanceBatch, Reason
from protokern.storage.files import read_table, replacing, to_json_bytes, translate_write_errors, write_file

FOLDER = "importance"
FORMAT = "protokern-importance-1"
OLDEST = 1
_REMEDY = "Run 'protokern importance RUN --data DIR' to write it again."
SPLITS = ("train", "test")
JSON = "importance.json"
_FIGURES = ("importance.svg", "importance.png")
TABLES = (*(f"{split}.csv" for split in SPLITS), *_FIGURES, JSON)  # all files but the local tables
_LOCAL_COLUMNS = ("image", "prototype", "modification", "delta", "similarity")
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceFiles:
    """The stored scores of a run.

    Attributes:
        folder: the folder of the files.
        push_image, push_patch: (P) of the push that the prototypes come from, see `PushResult`.
        train: over the training images.
        test: over the test images.
    """

    folder: Path
    push_image: tuple[int, ...]
    push_patch: tuple[int, ...]
    train: GlobalImportance
    test: GlobalImportance

    def comes_from(self, push: PushResult) -> bool:
        """Whether these are the scores of the prototypes of this push."""
        return push.image.tolist() == list(self.push_image) and push.patch.tolist() == list(self.push_patch)

    def reasons(self, prototype: int) -> tuple[Reason, ...]:
        """The global scores of a prototype, in the order of the modifications."""
        train, test = self.train, self.test
        return tuple(
            Reason(
                modification=name,
                score=float(train.score[row, prototype]),
                low=_number(train.low[row, prototype]),
                high=_number(train.high[row, prototype]),
                test_score=float(test.score[row, prototype]),
            )
            for row, name in enumerate(train.names)
        )


def write_importance(
    folder: Path,
    train: GlobalImportance,
    test: GlobalImportance,
    comparisons: Sequence[Comparison],
    push: PushResult,
    made_by: dict[str, Any],
) -> list[Path]:
    """Write tables, figures and the JSON file; older ones are replaced.

    Args:
        folder: is created if it is missing.
        train, test: the scores of one model.
        comparisons: of `train` with `test`.
        push: the push that the prototypes come from.
        made_by: further entries of the JSON file: checkpoint, image size, bootstrap.

    Returns:
        The paths of the files.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON).unlink(missing_ok=True)
    paths = []
    for split, scores in zip(SPLITS, (train, test), strict=True):
        paths.append(folder / f"{split}.csv")
        write_file(paths[-1], _global_table(scores))
    for name in _FIGURES:
        paths.append(folder / name)
        with translate_write_errors(paths[-1]):
            write_importance_figure(train.names, train.score, test.score, paths[-1])
    table = {
        "format": FORMAT,
        **made_by,
        "modifications": train.names,
        "comparison": {one.name: {k: v for k, v in asdict(one).items() if k != "name"} for one in comparisons},
        "push": {"image": push.image.tolist(), "patch": push.patch.tolist()},
        "train": _to_table(train),
        "test": _to_table(test),
    }
    write_file(folder / JSON, to_json_bytes(table))
    return [*paths, folder / JSON]


def read_importance(run_dir: Path) -> ImportanceFiles | None:
    """Read RUN/importance; None if the run has none. `comes_from` says whether the prototypes are still the same.

    Raises:
        CheckpointError: a file is broken or of another format.
    """
    folder = run_dir / FOLDER
    path = folder / JSON
    if not path.exists():
        return None
    table = read_table(path, FORMAT, oldest=OLDEST, remedy=_REMEDY)
    try:
        return _files_from_table(folder, table)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: must hold the scores of every prototype; it is broken ({type(error).__name__}: {error}). "
            "Run 'protokern importance RUN' to write it again."
        ) from error


def _files_from_table(folder: Path, table: dict[str, Any]) -> ImportanceFiles:
    names = tuple(table["modifications"])
    push_image, push_patch = tuple(table["push"]["image"]), tuple(table["push"]["patch"])
    train, test = (_from_table(names, table[split], len(push_image)) for split in SPLITS)
    return ImportanceFiles(folder=folder, push_image=push_image, push_patch=push_patch, train=train, test=test)


class LocalTable:
    """A table of local scores that grows on the disk, image by image; see `open_local_table`."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(_LOCAL_COLUMNS)

    def add(self, batch: ImportanceBatch, names: Sequence[str]) -> None:
        """Write the rows of a batch of images with these names."""
        for index, image in enumerate(names):
            similarity = batch.similarity[index]
            for row, modification in enumerate(batch.names):
                self._writer.writerows(
                    (image, prototype, modification, f"{delta:.6g}", f"{similarity[prototype]:.6g}")
                    for prototype, delta in enumerate(batch.delta[index, row])
                )


@contextmanager
def open_local_table(path: Path) -> Iterator[LocalTable]:
    """A new table, which gets its file name when it is complete.

    Parts of image names that are not Unicode become question marks.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            text = io.TextIOWrapper(file, newline="", encoding="utf-8", errors="replace")
            yield LocalTable(text)
            text.detach()  # writes what is left in the buffer, and does not close the file


def _global_table(scores: GlobalImportance) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("prototype", "modification", "score", "low", "high"))
    for prototype in range(scores.score.shape[1]):
        for row, name in enumerate(scores.names):
            ends = (_number(ends[row, prototype]) for ends in (scores.low, scores.high))
            shown = ("" if end is None else f"{end:.6g}" for end in ends)
            writer.writerow((prototype, name, f"{scores.score[row, prototype]:.6g}", *shown))
    return text.getvalue().encode()


def _to_table(scores: GlobalImportance) -> dict[str, Any]:
    return {
        "images": scores.num_images,
        "similarity": [round(value, _DIGITS) for value in scores.similarity.tolist()],
        "scores": {
            name: {
                kind: [_number(value) for value in getattr(scores, kind)[row].tolist()]
                for kind in ("score", "low", "high")
            }
            for row, name in enumerate(scores.names)
        },
    }


def _from_table(names: tuple[str, ...], table: dict[str, Any], num_prototypes: int) -> GlobalImportance:
    def read(kind: str) -> np.ndarray:
        rows = np.array([table["scores"][name][kind] for name in names], dtype=np.float64)
        return rows.reshape(len(names), num_prototypes)  # fails if some are missing

    return GlobalImportance(
        names=names,
        score=read("score"),
        low=read("low"),
        high=read("high"),
        similarity=np.array(table["similarity"], dtype=np.float64).reshape(num_prototypes),
        num_images=table["images"],
    )


def _number(value: float) -> float | None:
    """A number for the JSON file; None if it is unknown."""
    return None if math.isnan(value) else round(float(value), _DIGITS)
