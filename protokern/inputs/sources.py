"""Feature maps of a backbone that no longer learns: computed once, then read by push, last layer and prune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from protokern.errors import Stopped
from protokern.inputs.loaders import Batches
from protokern.models.base import PrototypeModel
from protokern.models.build import image_format


def to_device(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Images (B, C, Y, X) as the backbone likes them."""
    return images.to(device, memory_format=image_format(channels_last), non_blocking=True)


class FrozenFeatures:
    """Iterates over (features (B, D, H, W) float32, labels (B,)) of a data set, in its order, as often as wanted.

    The first pass runs the backbone and keeps what it gives when `memory` allows; later passes then cost nothing. The
    model's backbone and add-on layers must not change meanwhile.

    Args:
        model: in evaluation mode.
        loader: in data-set order.
        channels_last: memory format of the images.
        memory: bytes that may be kept.
        should_stop: asked before every batch; True raises Stopped.
    """

    def __init__(
        self,
        model: PrototypeModel,
        loader: Batches,
        *,
        channels_last: bool,
        memory: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self._backbone = nn.Identity() if model.takes_stored_maps else model.backbone
        self._add_on_layers = model.add_on_layers
        self._device = model.device
        self._loader = loader
        self._channels_last = channels_last
        self._memory = memory
        self._should_stop = should_stop
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._is_complete = False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._is_complete:
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] = []
        num_bytes = 0
        for images, labels in self._loader:
            if self._should_stop():
                raise Stopped
            with torch.no_grad():
                features = self._add_on_layers(self._backbone(to_device(images, self._device, self._channels_last)))
            num_bytes += features.nbytes
            if num_bytes <= self._memory:
                kept.append((features, labels))
            else:
                kept.clear()
            yield features, labels
        if num_bytes <= self._memory:
            self._kept, self._is_complete = kept, True


@dataclass(frozen=True, slots=True)
class FrozenSplits:
    """The features of the push, validation and test images."""

    push: FrozenFeatures
    val: FrozenFeatures
    test: FrozenFeatures

    @classmethod
    def make(
        cls,
        model: PrototypeModel,
        push: Batches,
        val: Batches,
        test: Batches,
        *,
        channels_last: bool,
        memory: int,
        should_stop: Callable[[], bool],
    ) -> FrozenSplits:
        """Features of three loaders, which share `memory` bytes as they share the images."""
        num_batches = sum(len(loader) for loader in (push, val, test))
        push_features, val_features, test_features = (
            FrozenFeatures(
                model,
                loader,
                channels_last=channels_last,
                memory=memory * len(loader) // max(num_batches, 1),
                should_stop=should_stop,
            )
            for loader in (push, val, test)
        )
        return cls(push_features, val_features, test_features)


@contextmanager
def on_features(model: PrototypeModel) -> Iterator[None]:
    """Within the block the model takes feature maps in place of images."""
    backbone, add_on_layers = model.backbone, model.add_on_layers
    model.backbone, model.add_on_layers = nn.Identity(), nn.Sequential()
    try:
        yield
    finally:
        model.backbone, model.add_on_layers = backbone, add_on_layers
