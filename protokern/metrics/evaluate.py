"""All measures of a model over a data set, in one call."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protokern.metrics.context import Annotations, Context
from protokern.metrics.measure import measure
from protokern.metrics.table import MetricTable
from protokern.models.base import PrototypeModel


def evaluate(
    model: PrototypeModel,
    data: Dataset[Any],
    metrics: Sequence[str] | None = None,
    annotations: Annotations | None = None,
    *,
    context: Context | None = None,
    batch_size: int = 32,
) -> MetricTable:
    """Measure how far the explanations of a model can be trusted, over a data set.

    Args:
        model: any prototype model whose choices are final, see `PrototypeModel.is_hard`.
        data: gives (image (C, Y, X), label) by index; images that were not used to choose anything.
        metrics: names of measures; None: all of `MEASURES` but those that are not `by_default`.
        annotations: what is known about the images of `data`; None: nothing, and measures that need it are left out.
        context: settings; None: the defaults. Its annotations and images are replaced by those given here.
        batch_size: images that go through the net together, at least 1.

    Raises:
        ValueError: a name is unknown, the choices of the model are soft, or the data are not what `measure` accepts.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1; got {batch_size}. Give a positive number.")

    def image(index: int) -> Tensor:
        return torch.as_tensor(data[index][0])

    context = replace(Context() if context is None else context, image=image)
    if annotations is not None:
        context = replace(context, regions=annotations.regions, parts=annotations.parts)
    number = len(cast(Sized, data))
    results = measure(model, DataLoader(data, batch_size), number, only=metrics, context=context)
    return MetricTable(results, {"images": number})
