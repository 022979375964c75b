"""One pass over a data set for all measures together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

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
    with _counting(model) as passed:
        used = dict.fromkeys(names, 0)
        started: dict[str, Measuring | MeasureResult] = {}
        for name in names:
            with _charging(used, name, passed):
                started[name] = _start(name, model, context, num_images)
        looking = {name: one for name, one in started.items() if not isinstance(one, MeasureResult)}
        seeing = {name: one for name, one in looking.items() if one.needs_images}
        if seeing:
            seen = _look(model, loader, seeing, used, passed)
            if seen != num_images:
                raise ValueError(
                    f"num_images: must be the number of images that the loader yields, {seen}; got {num_images}. "
                    "Images are drawn by it."
                )
        results = {name: one for name, one in started.items() if isinstance(one, MeasureResult)}
        for name, one in looking.items():
            with _charging(used, name, passed):
                results[name] = _finish(name, one)
    return tuple(replace(results[name], passes=used[name]) for name in names)


@contextmanager
def _counting(model: PrototypeModel) -> Iterator[Callable[[], int]]:
    """How many images have gone through the model's backbone, or a copy of it, within the block."""
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal total
        total += len(inputs[0])

    hook = model.backbone.register_forward_pre_hook(add)
    try:
        yield lambda: total
    finally:
        hook.remove()


@contextmanager
def _charging(used: dict[str, int], name: str, passed: Callable[[], int]) -> Iterator[None]:
    """Add the images that go through the net within the block to those of a measure."""
    before = passed()
    yield
    used[name] += passed() - before


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
    used: dict[str, int],
    passed: Callable[[], int],
) -> int:
    """Show every batch to all measures; returns the number of images."""
    count = 0
    with evaluating(model):
        for batch in read_batches(loader, model.num_classes, 0):
            images = batch.images.to(model.device, model.dtype)
            features = model.features(images)  # (B, D, H, W)
            cells = (features.shape[2], features.shape[3])
            seen = Seen(images, batch.labels, batch.index, model.head(features), cells, features)
            for name, one in measures.items():
                with _charging(used, name, passed):
                    one.see(seen)
            count += len(images)
    return count
