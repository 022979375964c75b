"""How many images of none of the classes a model takes for one: `protokern evaluate RUN --strangers DIR`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protokern.cli.show import show_progress
from protokern.data import Splits
from protokern.errors import ConfigError
from protokern.evaluate import collect_scores
from protokern.explain.strangers import believed, class_thresholds
from protokern.inputs.loaders import LabelledImages, ordered_loader
from protokern.report.numbers import percent
from protokern.runs.data import read_photographs
from protokern.runs.open import OpenRun

KEEP = 0.95  # of the validation images, the share that keep their answers


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of strangers.

    Attributes:
        folder: of the strangers.
        images: number of strangers.
        abstained: share of them to which the model gives no answer.
        taken: share of them whose answer is believed, the false positive rate.
        own_taken: share of the images of the evaluated split whose answer is believed.
        keep: share of the validation images whose answer the thresholds keep.
        thresholds: by class name.
    """

    folder: str
    images: int
    abstained: float
    taken: float
    own_taken: float
    keep: float
    thresholds: dict[str, float]

    def numbers(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "folder": self.folder,
            "images": self.images,
            "abstained": self.abstained,
            "false_positive_rate": self.taken,
            "believed": self.own_taken,
            "keep": self.keep,
            "thresholds": self.thresholds,
        }

    def lines(self, split: str) -> list[str]:
        """For people; `split` is the name of the evaluated images."""
        refused = 1 - self.taken
        return [
            f"{self.images} strangers in {self.folder}: {percent(refused)} none of these "
            f"({percent(self.abstained)} without any score), {percent(self.taken)} taken for a class",
            f"the thresholds keep {percent(self.keep)} of the validation images, "
            f"and {percent(self.own_taken)} of the {split} images",
        ]


def check_keep(keep: float | None, strangers: Path | None) -> float:
    """The share of the validation images that keep their answers: `--keep`, or 0.95 without it.

    Raises:
        ConfigError: it is out of range, or there are no strangers.
    """
    if keep is None:
        return KEEP
    if strangers is None:
        raise ConfigError(f"--keep: must come with --strangers DIR, whose thresholds it is for; got {keep} alone.")
    if not 0 < keep < 1:
        raise ConfigError(f"--keep: must be between 0 and 1; got {keep}. Use for example {KEEP}.")
    return keep


def judge_strangers(
    opened: OpenRun, splits: Splits, images: LabelledImages, folder: Path, paths: Sequence[Path], keep: float = KEEP
) -> Judged:
    """Fit a threshold for each class on the validation images, and count the strangers above them.

    Args:
        opened: the run.
        splits: its data.
        images: the evaluated split.
        folder: of the strangers.
        paths: of their images.
        keep: share of the validation images whose answer the thresholds keep, in (0, 1).

    Raises:
        ConfigError: the model has no answer to any validation image.
        DataError: a file is no image, or an image that the run cannot use.
    """
    model, config = opened.model, opened.config

    def scores_of(dataset: LabelledImages, what: str) -> tuple[Tensor, Tensor]:
        loader = ordered_loader(dataset, config.train.batch_size, config.data.workers)
        return collect_scores(model, show_progress(loader, what, len(loader)), loader.given)

    known, is_mute = scores_of(splits.val, "validation images")
    answered = 1 - float(is_mute.double().mean())
    if answered == 0:
        raise ConfigError("--strangers: must be given for a model with answers; this one has none to any image.")
    # Of the images with an answer so many that they are `keep` of all, if there are enough.
    thresholds = class_thresholds(known[~is_mute], min(keep / answered, 1 - 1e-9))
    own = believed(*scores_of(images, "images"), thresholds)
    size = config.train.batch_size
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    strange, has_none = collect_scores(model, show_progress(_read(opened, batches), "strangers", len(batches)))
    return Judged(
        folder=str(folder),
        images=len(paths),
        abstained=float(has_none.double().mean()),
        taken=float(believed(strange, has_none, thresholds).double().mean()),
        own_taken=float(own.double().mean()),
        keep=keep,
        thresholds=dict(zip(opened.classes, thresholds.tolist(), strict=True)),
    )


def _read(opened: OpenRun, batches: Sequence[Sequence[Path]]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        images = read_photographs(opened.config, batch)
        yield torch.stack(images), torch.full((len(images),), -1)
