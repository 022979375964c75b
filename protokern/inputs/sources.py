"""A data set in a form that a model takes: images, the maps of a frozen backbone, or features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from protokern.errors import Stopped
from protokern.inputs.loaders import LabelledImages, given_of, ordered_loader, training_loader
from protokern.models.base import Given, PrototypeModel
from protokern.models.build import image_format


class FeatureSource(Protocol):
    """Batches of (inputs, labels) in the order of a data set, for any number of passes; loaders are such.

    Attributes:
        given: what the inputs are; the argument of `PrototypeModel.features`.
    """

    @property
    def given(self) -> Given: ...

    def __len__(self) -> int:
        """The number of batches."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def to_device(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Images (B, C, Y, X) on the device and in the memory format of the backbone."""
    return images.to(device, memory_format=image_format(channels_last), non_blocking=True)


class MemorySource:
    """The features (B, D, H, W) float32 of another source, kept in memory if they fit.

    The first pass runs the net and keeps the features if `limit` allows; later passes then cost nothing. The model's
    backbone and add-on layers must not change in between.

    Args:
        source: images, or the backbone's maps of them.
        model: in evaluation mode.
        channels_last: memory format of the inputs.
        limit: bytes that may be kept.
        should_stop: asked before every batch; True raises Stopped.
    """

    given: Given = "features"

    def __init__(
        self,
        source: FeatureSource,
        model: PrototypeModel,
        *,
        channels_last: bool,
        limit: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self._source = source
        self._model = model
        self._channels_last = channels_last
        self._limit = limit
        self._should_stop = should_stop
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._is_complete = False

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._is_complete:
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] = []
        num_bytes = 0
        for inputs, labels in self._source:
            if self._should_stop():
                raise Stopped
            features = self._features(to_device(inputs, self._model.device, self._channels_last))
            num_bytes += features.nbytes
            if num_bytes <= self._limit:
                kept.append((features, labels))
            else:
                kept.clear()
            yield features, labels
        if num_bytes <= self._limit:
            self._kept, self._is_complete = kept, True

    def kept(self, images: Sequence[int], batch_size: int) -> Tensor | None:
        """The features (B, D, H, W) of some images; None unless a whole pass was kept.

        Args:
            images: positions in the data set.
            batch_size: of the batches of the source.
        """
        if not self._is_complete:
            return None
        return torch.stack([self._kept[image // batch_size][0][image % batch_size] for image in images])

    def _features(self, inputs: Tensor) -> Tensor:
        return compute_features(self._model, inputs, self._source.given)


@torch.no_grad()
def compute_features(model: PrototypeModel, inputs: Tensor, given: Given) -> Tensor:
    """The features (B, D, H, W) of images, or of the backbone's maps of them, as training measures and pushes.

    The add-on layers see whole maps, also those that are stored. `given="maps"` of a model goes row by row and rounds
    differently, and a push copies patches from here.
    """
    maps = model.backbone(inputs) if given == "images" else inputs
    features: Tensor = model.add_on_layers(maps)
    return features


class SplitFeatures:
    """The features of one data set, in order and as often as asked for, or of some of its images.

    The backbone runs only over images whose maps are not stored, and the whole net only until a pass was kept.

    Args:
        model: in evaluation mode; its weights must not change.
        images: the data set, or the stored maps of its images.
        batch_size: images at a time.
        workers: processes that read images.
        channels_last: memory format of the inputs.
        limit: bytes that may be kept.

    Attributes:
        is_stored: whether the maps of the backbone are read, not computed.
    """

    given: Given = "features"

    def __init__(
        self,
        model: PrototypeModel,
        images: LabelledImages,
        *,
        batch_size: int,
        workers: int,
        channels_last: bool,
        limit: int,
    ) -> None:
        self._model, self._images, self._channels_last = model, images, channels_last
        self._batch_size = batch_size
        self.is_stored = given_of(images) == "maps"
        self._memory = MemorySource(
            ordered_loader(images, batch_size, workers),
            model,
            channels_last=channels_last,
            limit=limit,
            should_stop=lambda: False,
        )

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._memory)

    def of(self, images: Sequence[int]) -> Tensor:
        """The features (B, D, H, W) of some images, at least one, by their positions in the data set."""
        kept = self._memory.kept(images, self._batch_size)
        if kept is not None:
            return kept
        loader = training_loader(self._images, [list(images)], 0, seed=0)
        ((inputs, _),) = loader
        return compute_features(self._model, to_device(inputs, self._model.device, self._channels_last), loader.given)


@dataclass(frozen=True, slots=True)
class FrozenSplits:
    """The features of the push, validation and test images."""

    push: MemorySource
    val: MemorySource
    test: MemorySource

    @classmethod
    def make(
        cls,
        model: PrototypeModel,
        push: FeatureSource,
        val: FeatureSource,
        test: FeatureSource,
        *,
        channels_last: bool,
        limit: int,
        should_stop: Callable[[], bool],
    ) -> FrozenSplits:
        """Features of three sources, which share `limit` bytes in proportion to their batches."""
        num_batches = sum(len(source) for source in (push, val, test))
        push_features, val_features, test_features = (
            MemorySource(
                source,
                model,
                channels_last=channels_last,
                limit=limit * len(source) // max(num_batches, 1),
                should_stop=should_stop,
            )
            for source in (push, val, test)
        )
        return cls(push_features, val_features, test_features)
