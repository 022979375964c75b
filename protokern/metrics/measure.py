"""One pass over a data set for all measures together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protokern.metrics.context import Context, LeftOutError, Measuring, Seen
from protokern.metrics.registry import MEASURES, check_names
from protokern.metrics.results import MeasureResult
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.search.batches import Loader, read_batches


def measure(
    model: PrototypeModel,
    loader: Loader,
    num_images: int,
    *,
    only: Sequence[str] | None = None,
    context: Context | None = None,
) -> tuple[MeasureResult, ...]:
    """Measure how far the explanations of a model can be trusted, over the images of a loader.

    One pass, in evaluation mode and without gradients; afterwards every module is in its previous mode. Memory is that
    of one batch and some numbers per image.

    Args:
        model: any prototype model whose choices are final, see `PrototypeModel.is_hard`.
        loader: yields (images, labels) in the data set's order, or (images, labels, index); test images, which were not
            used to choose anything.
        num_images: how many images the loader yields.
        only: names of measures; None: all of `MEASURES` but those that are not `by_default`.
        context: further inputs and settings; None: the defaults.

    Returns:
        One result per measure, in the order of `MEASURES`, also for measures that are left out.

    Raises:
        ValueError: a name is unknown, the choices of the model are soft, or the loader yields another number of images,
            or something that `find_nearest_patches` does not accept.
    """
    names = check_names(None if only is None else list(only))
    context = Context() if context is None else context
    if not model.is_hard:
        raise ValueError("model: must have made its choices final to be measured; they are soft. Call model.harden().")
    with _counting(model) as counter:
        used = dict.fromkeys(names, _Passed())
        started: dict[str, Measuring | MeasureResult] = {}
        for name in names:
            with _charging(used, name, counter):
                started[name] = _start(name, model, context, num_images)
        looking = {name: one for name, one in started.items() if not isinstance(one, MeasureResult)}
        seeing = {name: one for name, one in looking.items() if one.needs_images}
        seen = 0
        if seeing:
            seen = _look(model, loader, seeing, used, counter)
            if seen != num_images:
                raise ValueError(
                    f"num_images: must be the number of images that the loader yields, {seen}; got {num_images}. "
                    "Images are drawn by it."
                )
        results = {name: one for name, one in started.items() if isinstance(one, MeasureResult)}
        for name, one in looking.items():
            with _charging(used, name, counter):
                results[name] = _finish(name, one)
    return tuple(_with_passes(results[name], used[name], seen if name in seeing else 0) for name in names)


_PROBES = 64  # values of an image that are compared before all of it is


class _Passed(NamedTuple):
    """How many images have gone through the net, and how many of them were unchanged, through the unchanged net."""

    all: int = 0
    unchanged: int = 0


def _with_passes(result: MeasureResult, own: _Passed, shared: int) -> MeasureResult:
    return replace(result, passes=own.all, unchanged=own.unchanged, shared=shared)


class _Counter:
    """Counts the images that go through a backbone or a copy of it.

    Attributes:
        passed: until now.
        batch: the images of the data that are looked at now, (B, C, Y, X); None: none.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self.passed = _Passed()
        self.batch: Tensor | None = None

    def add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = inputs[0]
        same = self._unchanged(images) if module is self._backbone else 0
        self.passed = _Passed(self.passed.all + len(images), self.passed.unchanged + same)

    def _unchanged(self, images: Tensor) -> int:
        batch = self.batch
        if batch is None or images.shape[1:] != batch.shape[1:]:
            return 0
        step = max(1, images[0].numel() // _PROBES)
        probes = [one.flatten(1)[:, ::step] for one in (images, batch)]  # (n, probes) and (B, probes)
        alike = (probes[0][:, None] == probes[1][None]).all(dim=2).nonzero().tolist()
        return len({row for row, own in alike if torch.equal(images[row], batch[own])})


@contextmanager
def _counting(model: PrototypeModel) -> Iterator[_Counter]:
    """Count the images that go through the model's backbone, or a copy of it, within the block."""
    counter = _Counter(model.backbone)
    # Copies of the model share a function, but would get a copy of the counter with its method.
    hook = model.backbone.register_forward_pre_hook(lambda module, inputs: counter.add(module, inputs))
    try:
        yield counter
    finally:
        hook.remove()


@contextmanager
def _charging(used: dict[str, _Passed], name: str, counter: _Counter) -> Iterator[None]:
    """Add the images that go through the net within the block to those of a measure."""
    before = counter.passed
    yield
    now, own = counter.passed, used[name]
    used[name] = _Passed(own.all + now.all - before.all, own.unchanged + now.unchanged - before.unchanged)


def _start(name: str, model: PrototypeModel, context: Context, num_images: int) -> Measuring | MeasureResult:
    """A new measure, or its result if it has to be left out."""
    try:
        return MEASURES[name].start(model, context, num_images)
    except LeftOutError as reason:
        return MeasureResult(name=name, left_out=str(reason))


def _finish(name: str, one: Measuring) -> MeasureResult:
    result = one.result()
    assert not result.table or MEASURES[name].details is not None, f"{name}: its row in MEASURES must name its columns"
    return result


def _look(
    model: PrototypeModel,
    loader: Loader,
    measures: dict[str, Measuring],
    used: dict[str, _Passed],
    counter: _Counter,
) -> int:
    """Show every batch to all measures; returns the number of images."""
    count = 0
    with evaluating(model):
        for batch in read_batches(loader, model.num_classes, 0):
            images = batch.images.to(model.device, model.dtype)
            features = model.features(images)  # (B, D, H, W)
            cells = (features.shape[2], features.shape[3])
            seen = Seen(images, batch.labels, batch.index, model.head(features), cells, features)
            counter.batch = images
            for name, one in measures.items():
                with _charging(used, name, counter):
                    one.see(seen)
            counter.batch = None
            count += len(images)
    return count
