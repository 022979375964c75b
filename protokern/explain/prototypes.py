"""The prototypes of a run, read from its folder or drawn from its data: where each comes from, and pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protokern.errors import DataError
from protokern.explain.boxes import cell_box
from protokern.explain.framing import drawn_box
from protokern.explain.pictures import draw_box, overlay_heat, to_picture
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.views import view_patches
from protokern.inputs.loaders import ShownImages
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.push import PushResult
from protokern.results.places import LazyPicture, PatchView, ReceptiveField, SeenPicture
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import ClassWeight, Prototype, PrototypeSource
from protokern.runs.data import RunData, check_classes
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import (
    NewPrototypes,
    PictureKind,
    PrototypeFiles,
    new_prototypes,
    read_prototypes,
    weights_of,
)

_BATCH = 16
FeaturesOf = Callable[[Sequence[int]], Tensor]


def write_prototypes(
    run_dir: Path,
    model: PrototypeModel,
    splits: RunData,
    push_result: PushResult,
    *,
    features: FeaturesOf | None = None,
    progress: Progress = show_nothing,
) -> PrototypeFiles:
    """Write RUN/prototypes for a model after a push; an older one is replaced.

    Activation maps are computed only for the prototypes of an image.

    Args:
        run_dir: the run folder, which exists.
        model: after the push (and after pruning, if it was pruned).
        splits: its `push` set holds the images of the push, in the same order.
        push_result: one entry for every prototype that the model has now.
        features: from positions in the push set to the features (B, D, H, W) of these images; None: every source image
            goes through the net once.
        progress: shows the progress over the source images.

    Raises:
        ValueError: `push_result` is of another number of prototypes.
        DataError: `splits` has fewer images than the push had.
        CheckpointError: the disk is full or not writable, or the older folder holds files that protokern did not
            write; the older folder is then kept.
    """
    _check(model, splits, push_result)
    images = sorted({image for image in push_result.image.tolist() if image >= 0})
    with new_prototypes(run_dir) as new:
        first = splits.push[images[0] if images else 0][0]
        with evaluating(model):
            field = find_receptive_field(model.features, first.to(model.device, model.dtype))
            sources = _write_pictures(new, model, splits.push, push_result, images, field, features, progress)
        return new.finish(
            image_size=(first.shape[1], first.shape[2]),
            grid=push_result.grid,
            receptive_field=field,
            prototypes=_records(model, splits.classes, sources),
            weights=weights_of(model),
        )


def _check(model: PrototypeModel, splits: RunData, push_result: PushResult) -> None:
    if len(push_result.image) != model.num_prototypes:
        raise ValueError(
            f"push_result: must have one entry for each of the {model.num_prototypes} prototypes; "
            f"got {len(push_result.image)}. Give the result of this model's own push."
        )
    last = int(push_result.image.max()) if len(push_result.image) else -1
    if last >= len(splits.push):
        raise DataError(
            f"data: must hold the images of the push, at least {last + 1} of them; got {len(splits.push)}. "
            "Give the data that the model was pushed on."
        )


def _write_pictures(
    new: NewPrototypes,
    model: PrototypeModel,
    dataset: ShownImages,
    push: PushResult,
    images: Sequence[int],
    field: ReceptiveField,
    features_of: FeaturesOf | None,
    progress: Progress,
) -> dict[int, PrototypeSource]:
    """Write the three pictures of every prototype that has a source; return the sources by index."""
    of_image: dict[int, list[int]] = {image: [] for image in images}
    for prototype, image in enumerate(push.image.tolist()):
        if image >= 0:
            of_image[image].append(prototype)
    sources = {}
    starts = range(0, len(images), _BATCH)
    for start in progress(starts, "pictures of the prototypes", len(starts)):
        batch = images[start : start + _BATCH]
        tensors = torch.stack([dataset[image][0] for image in batch])
        features = model.features(tensors.to(model.device, model.dtype)) if features_of is None else features_of(batch)
        for image, tensor, feature in zip(batch, tensors, features, strict=True):
            picture, name = to_picture(tensor), dataset.sample_name(image)
            for view in view_patches(model, feature, push.patch, of_image[image], tensor.shape[1:], field):
                _add_pictures(new, picture, view)
                sources[view.prototype] = PrototypeSource(
                    image=image,
                    name=name,
                    patch=view.patch,
                    activation_box=view.activation_box,
                    patch_box=view.patch_box,
                    receptive_field_box=view.receptive_field_box,
                    distance=float(push.distance[view.prototype]),
                )
    return sources


def _add_pictures(new: NewPrototypes, picture: np.ndarray, view: PatchView) -> None:
    new.add_picture(view.prototype, "image", picture)
    new.add_picture(view.prototype, "box", draw_box(picture, view.patch_box))
    new.add_picture(view.prototype, "heat", overlay_heat(picture, view.heat_map))


def _records(
    model: PrototypeModel, classes: Sequence[str], sources: dict[int, PrototypeSource]
) -> tuple[Prototype, ...]:
    return tuple(
        Prototype(index=index, classes=weights, source=sources.get(index))
        for index, weights in enumerate(class_weights(model, classes))
    )


def class_weights(model: PrototypeModel, classes: Sequence[str]) -> list[tuple[ClassWeight, ...]]:
    """The classes of every prototype, by index, and its weight for each of them; 1 where the reasons are a path.

    Raises:
        ValueError: the model still chooses which prototypes its classes use.
    """
    identity = model.class_identity.cpu()  # (P, K)
    weight = identity.T if model.reasons == "path" else model.prototype_weight.detach().cpu()  # (K, P)
    return [
        tuple(ClassWeight(k, classes[k], float(weight[k, index])) for k in row.nonzero().flatten().tolist())
        for index, row in enumerate(identity > 0)
    ]


def find_prototypes(run: OpenRun, splits: RunData | None) -> PrototypeFiles | None:
    """The pictures of the model's prototypes.

    If the stored pictures belong to another push or other weights, or do not say which, and the data exist, they are
    written again.
    """
    if run.push is None:
        return None
    files = read_prototypes(run.folder)
    if files is not None and files.comes_from(run.push, run.model) and (files.weights is not None or splits is None):
        return files
    if splits is None:
        return None
    check_classes(splits, run.classes)  # pictures of other classes would mislead
    return write_prototypes(run.folder, run.model, splits, run.push)


def describe_prototypes(
    model: PrototypeModel, classes: Sequence[str], files: PrototypeFiles | None, frame: str = "grid"
) -> tuple[Prototype, ...]:
    """Every prototype of a model with its pictures, if there are any; they are read when they are drawn.

    Weights are the present ones of the model. While a model still chooses, its prototypes have no classes. If frames
    were sought for some prototypes only, the others show the cell of their patch.

    Args:
        model: the model of a run.
        classes: class names.
        files: the prototypes of the run; None: they have no pictures.
        frame: which box is drawn as the frame, see `drawn_box`.
    """
    weights = class_weights(model, classes) if model.is_hard else [()] * model.num_prototypes
    sources = [] if files is None else [record.source for record in files.prototypes]
    has_frames = frame == "sufficient" and any(one is not None and one.sufficient is not None for one in sources)
    cards = []
    for index, of_prototype in enumerate(weights):
        source = None if files is None else files.prototypes[index].source
        picture = None
        if files is not None and source is not None:
            cell = cell_box(files.grid, source.patch, files.image_size)
            picture = SeenPicture(
                image=_lazy(files, index, "image"),
                heat=_lazy(files, index, "heat"),
                box=cell if has_frames and source.sufficient is None else drawn_box(source, frame),
                receptive_field_box=source.receptive_field_box,
                cell=cell if frame == "sufficient" else None,
                proof=source.sufficient if frame == "sufficient" else None,
            )
        card = Prototype(
            index=index,
            classes=of_prototype,
            picture=picture,
            source=source,
        )
        cards.append(card)
    return tuple(cards)


def _lazy(files: PrototypeFiles, index: int, kind: PictureKind) -> LazyPicture:
    return LazyPicture(load=partial(files.picture, index, kind), shape=(*files.image_size, 3), key=(kind, index))
