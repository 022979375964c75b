"""The sufficient frames of the prototypes of a run, in the images that they come from, and images to check frames with.

Frames are computed when they are first needed. `report` stores them with the prototypes, so that this happens once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from protokern.explain.sufficient import FrameTarget, sufficient_frames
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import Prototype, PrototypeSource
from protokern.runs.data import RunData
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles

_IMAGES = 4  # at a time: limits memory, and moves the bar every few seconds


def frame_prototypes(
    run: OpenRun,
    files: PrototypeFiles,
    splits: RunData | None = None,
    prototypes: Collection[int] | None = None,
    *,
    progress: Progress = show_nothing,
) -> PrototypeFiles:
    """The files with the sufficient frames of some prototypes; missing frames are computed.

    Args:
        run: a run after a push.
        files: its prototypes.
        splits: its data; None: the pictures of the prototypes serve as images if they are in colour. If the images have
            other channels, no frame is computed without the data.
        prototypes: the prototypes that get frames; None: all.
        progress: shows the progress.
    """
    sources = {record.index: record.source for record in files.prototypes if record.source is not None}
    missing = [
        index
        for index, source in sources.items()
        if source.sufficient is None and (prototypes is None or index in prototypes)
    ]
    if not missing or not can_read_sources(run, splits):
        return files
    by_image: dict[int, list[int]] = {}
    for index in missing:
        by_image.setdefault(sources[index].image, []).append(index)
    found: dict[int, PrototypeSource] = {}
    images = sorted(by_image)
    batches = [images[start : start + _IMAGES] for start in range(0, len(images), _IMAGES)]
    for batch in progress(batches, "frames of the prototypes", len(batches)):
        others = [_another(files, by_image[image][0]) for image in batch]
        targets = [
            FrameTarget(place, index, sources[index].patch)
            for place, image in enumerate(batch)
            for index in by_image[image]
        ]
        frames = sufficient_frames(
            run.model,
            torch.stack([_source_image(files, by_image[image][0], splits) for image in batch]),
            targets,
            others=torch.stack([_source_image(files, one, splits) for one in others if one is not None])
            if None not in others
            else None,
        )
        for target, frame in zip(targets, frames, strict=True):
            found[target.prototype] = replace(sources[target.prototype], sufficient=frame)
    return with_sources(files, found)


def choose_framed(files: PrototypeFiles, shown: Collection[int], most: int) -> list[int]:
    """The prototypes that get frames if not all can: what explanations show, then the first of every class in turn.

    Args:
        files: the prototypes of a run.
        shown: the prototypes in explanations, which all get frames.
        most: number of prototypes with frames, unless more are shown.
    """
    turns: dict[int, int] = {}  # of every class: how many of its prototypes come before
    ranked = []
    for record in files.prototypes:
        first = min(_classes(record), default=-1)
        ranked.append((record.index not in shown, turns.get(first, 0), record.index))
        turns[first] = turns.get(first, 0) + (record.index not in shown)
    chosen = [index for _, _, index in sorted(ranked)]
    return sorted(chosen[: max(most, len(shown))])


def with_sources(files: PrototypeFiles, sources: dict[int, PrototypeSource]) -> PrototypeFiles:
    """The files with other sources for some prototypes."""
    records = (replace(one, source=sources.get(one.index, one.source)) for one in files.prototypes)
    return replace(files, prototypes=tuple(records))


def other_image(
    run: OpenRun, files: PrototypeFiles | None, class_index: int, splits: RunData | None = None
) -> Tensor | None:
    """An image to check the frames of an answer with: the source of the first prototype that is not of that class.

    Args:
        run: a run after a push.
        files: its prototypes.
        class_index: class of the answer.
        splits: as in `frame_prototypes`.

    Returns:
        (C, Y, X); None if there is no such image, or none that can be read without the data.
    """
    if files is None or not can_read_sources(run, splits):
        return None
    for record in files.prototypes:
        if record.source is not None and class_index not in _classes(record):
            return _source_image(files, record.index, splits)
    return None


def can_read_sources(run: OpenRun, splits: RunData | None) -> bool:
    """Whether the images that prototypes come from can be read: from the data, or from their pictures in colour."""
    return splits is not None or run.config.data.channels == 3


def _source_image(files: PrototypeFiles, index: int, splits: RunData | None) -> Tensor:
    """The image (C, Y, X) that a prototype comes from."""
    source = files.prototypes[index].source
    assert source is not None
    if splits is not None and source.image < len(splits.push) and splits.push.sample_name(source.image) == source.name:
        return splits.push[source.image][0]
    return torch.from_numpy(files.picture(index, "image").copy()).permute(2, 0, 1).float() / 255


def _another(files: PrototypeFiles, index: int) -> int | None:
    """The next prototype by number, cyclically, that comes from another image; of another class if there is one."""
    records = files.prototypes
    own = records[index]
    assert own.source is not None
    following: Sequence[Prototype] = [*records[index + 1 :], *records[:index]]
    others = [one for one in following if one.source is not None and one.source.image != own.source.image]
    strangers = [one for one in others if not _classes(one) & _classes(own)]
    return (strangers or others)[0].index if others else None


def _classes(record: Prototype) -> set[int]:
    return {one.class_index for one in record.classes}
