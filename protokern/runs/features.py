"""What passes over the data of a run read: the stores of its frozen backbone as far as they fit, or else its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protokern.config.run import feature_store
from protokern.inputs.loaders import DataSplits, LabelledImages
from protokern.inputs.sources import SplitFeatures
from protokern.inputs.stores import FoundSplits, find_stores
from protokern.runs.open import OpenRun


def feature_folder(run: OpenRun) -> Path:
    """The folder of the stores of a run, one folder for each split inside; it need not exist."""
    return feature_store(run.config) or run.folder / "features"


def find_inputs(run: OpenRun, splits: DataSplits) -> FoundSplits:
    """The stored features of the splits of a run, or their images where no store is of exactly these images.

    Raises:
        DataError: a store is damaged.
    """
    return find_stores(feature_folder(run), run.model, splits, run.config.train)


def split_features(run: OpenRun, *splits: LabelledImages) -> tuple[SplitFeatures, ...]:
    """The features of some data sets under the model of a run, which stays as it is.

    They share `train.feature_cache_mb` by their numbers of images.
    """
    config, total = run.config.train, max(sum(map(len, splits)), 1)
    return tuple(
        SplitFeatures(
            run.model,
            split,
            batch_size=config.batch_size,
            workers=run.config.data.workers,
            channels_last=config.channels_last,
            limit=config.feature_cache_mb * 2**20 * len(split) // total,
        )
        for split in splits
    )


@dataclass(frozen=True, slots=True)
class RunFeatures:
    """The features of the training and the test images, as training measured them."""

    push: SplitFeatures
    test: SplitFeatures

    @classmethod
    def of(cls, run: OpenRun, inputs: DataSplits) -> RunFeatures:
        """The features under the model of a run.

        Args:
            run: the run; its model stays as it is.
            inputs: see `find_inputs`.
        """
        push, test = split_features(run, inputs.push, inputs.test)
        return cls(push, test)
