"""How far the explanations of a run can be trusted, for its page: stored measures, and the others on few images."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from protokern.backbones.fusing import fused_layers
from protokern.explain.framing import FRAME_MAKERS
from protokern.metrics import MEASURES, Context, measure
from protokern.metrics.files import read_measures
from protokern.metrics.random_prototypes import measure_random
from protokern.nn import evaluating
from protokern.results.measures import MeasureResult, Trust
from protokern.results.places import Box
from protokern.results.progress import Progress, show_nothing
from protokern.runs.data import RunData
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles

# These need nothing beside the images, and few passes of the net.
QUICK = ("left_alone", "stability", "randomisation", "concentration", "duplicates")
WITHOUT_IMAGES = ("duplicates",)
QUICK_IMAGES = 12
_SHUFFLING = ("randomisation",)  # changes weights, of which fused layers have copies
_BATCH = 8
_FRAME = "grid"


def collect_trust(
    run: OpenRun,
    data: RunData | None,
    files: PrototypeFiles | None,
    *,
    progress: Progress = show_nothing,
) -> Trust | None:
    """The measures of a run; None while its classes still choose their prototypes.

    Measures that `protokern metrics` stored for these weights are taken from there. Of the others those that need no
    annotations are measured over a few test images, drawn by a fixed seed, so that every page has them.

    Args:
        run: any run.
        data: its data; None: only what needs no images is measured.
        files: the prototypes with the frames of their sources; None: the cells of the patches are compared.
        progress: shows the progress of the measures over the images.

    Raises:
        CheckpointError: the stored measures are broken or of another format.
    """
    if not run.model.is_hard:
        return None
    stored = read_measures(run.folder)
    is_stale = stored is not None and not stored.is_of(run.model)
    known = () if stored is None or is_stale else stored.results
    there = {one.name for one in known}
    missing = [name for name in (WITHOUT_IMAGES if data is None else QUICK) if name not in there]
    results, random = _measure_few(run, data, files, missing, progress)
    return Trust(
        results=(*known, *results),
        random=(*(() if stored is None or is_stale else stored.random), *random),
        split="test" if stored is None or is_stale else stored.split,
        quick=tuple(missing),
        num_images=None if data is None else len(data.test),
        is_stale=is_stale,
    )


def stored_trust(run: OpenRun, num_images: int | None) -> Trust | None:
    """The measures that `protokern metrics` stored for the weights of a run; None: there are none.

    Args:
        run: any run.
        num_images: of the test split; None: there are no data.

    Raises:
        CheckpointError: the stored measures are broken or of another format.
    """
    stored = read_measures(run.folder)
    if stored is None or not stored.is_of(run.model):
        return None
    return Trust(results=stored.results, random=stored.random, split=stored.split, num_images=num_images)


def _measure_few(
    run: OpenRun, data: RunData | None, files: PrototypeFiles | None, names: list[str], progress: Progress
) -> tuple[tuple[MeasureResult, ...], tuple[MeasureResult, ...]]:
    """Some measures, and those of random prototypes, over a few test images."""
    if not names:
        return (), ()
    context = Context(
        frames={_FRAME: FRAME_MAKERS[_FRAME](run.model)},
        push=run.push,
        source_boxes=_source_boxes(files),
        subset=QUICK_IMAGES,
    )
    if data is None:
        return measure(run.model, (), 0, only=names, context=context), ()
    chosen = np.random.default_rng(context.seed).permutation(len(data.test))[:QUICK_IMAGES]
    images = Subset(cast(Dataset[tuple[torch.Tensor, int]], data.test), sorted(chosen.tolist()))
    of_images = replace(context, image=lambda index: images[index][0])

    def measured(title: str, some: list[str]) -> tuple[MeasureResult, ...]:
        loader = DataLoader(images, _BATCH)
        batches = progress(loader, title, len(loader))
        return measure(run.model, batches, len(images), only=some, context=of_images) if some else ()

    results = measured("maps of shuffled weights", [name for name in names if name in _SHUFFLING])
    with evaluating(run.model), fused_layers(run.model.backbone):
        results += measured("how far explanations can be trusted", [name for name in names if name not in _SHUFFLING])
        loader = DataLoader(images, _BATCH)
        batches = progress(loader, "the same with random prototypes", len(loader))
        random = measure_random(
            run.model, batches, len(images), data.push, only=names, context=context, most_images=QUICK_IMAGES
        )
    order = list(MEASURES)
    return tuple(sorted(results, key=lambda one: order.index(one.name))), random


def _source_boxes(files: PrototypeFiles | None) -> list[Box | None] | None:
    """The frames of the prototypes' own sources, as `protokern metrics` compares them."""
    if files is None:
        return None
    return [None if record.source is None else record.source.patch_box for record in files.prototypes]
