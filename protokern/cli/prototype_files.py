"""The prototypes of a run as files: where each comes from, and pictures of it.

    RUN/prototypes/prototypes.json     one entry for each prototype, and the receptive field of the model
    RUN/prototypes/0007-image.png      the training image that prototype 7 is a patch of
    RUN/prototypes/0007-box.png        the same with a frame around the highest-activated part
    RUN/prototypes/0007-heat.png       the same under its heat map

The folder is written whole: under a temporary name first, then renamed. What somebody else put there is never lost.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from protokern.cli.run_folder import PROTOTYPES, check_prototypes_folder
from protokern.data import ImageDataset, Splits
from protokern.errors import CheckpointError, DataError
from protokern.explain.boxes import Box
from protokern.explain.local import PatchView, view_patches
from protokern.explain.pictures import draw_box, overlay_heat, to_picture
from protokern.explain.receptive_field import ReceptiveField, find_receptive_field
from protokern.explain.sufficient import SufficientFrame
from protokern.features import fingerprint_of_weights
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.push import PushResult
from protokern.report.data import ClassWeight
from protokern.storage.names import temporary_path
from protokern.storage.outputs import claim_outputs, list_folder
from protokern.train.files import explain_write_errors, read_json, remove_folder, to_json_bytes, write_synced
from protokern.train.formats import check_format

FORMAT = "protokern-prototypes-3"
OLDEST = 2
_TABLE = "prototypes.json"
_REMEDY = "Remove its folder and run 'protokern report RUN --data DIR' to make it anew."
_BATCH = 16
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeSource:
    """The patch that a prototype is.

    Attributes:
        image: position of the training image in the push set.
        name: of that image.
        patch: (row, column) in the grid of patches.
        activation_box: around the highest twentieth of the heat map, pixels, as in the paper.
        patch_box: around the patch's cell and the part of it that is connected with that; the frame in the pictures.
        receptive_field_box: the pixels that the patch depends on.
        distance: from the prototype before the push to the patch.
        sufficient: the smallest box found whose content alone keeps the similarity; None: nobody has looked yet.
    """

    image: int
    name: str
    patch: tuple[int, int]
    activation_box: Box
    patch_box: Box
    receptive_field_box: Box
    distance: float
    sufficient: SufficientFrame | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeRecord:
    """A prototype: its place in the model, its classes with its weight for each, and its patch if it is one."""

    index: int
    classes: tuple[ClassWeight, ...]
    source: PrototypeSource | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeFiles:
    """The folder of a run's prototypes.

    Attributes:
        folder: where the pictures are.
        image_size: (Y, X) of the images, pixels.
        grid: (H', W') of the patches.
        receptive_field: of the model for images of this size.
        prototypes: by index.
        weights: a fingerprint of the net and the vectors that boxes, maps and frames were found with, without the last
            layer, on which none of them depends; None: the files are older than this note.
    """

    folder: Path
    image_size: tuple[int, int]
    grid: tuple[int, int]
    receptive_field: ReceptiveField
    prototypes: tuple[PrototypeRecord, ...]
    weights: str | None

    def picture(self, index: int, kind: str) -> np.ndarray:
        """The "image", "box" or "heat" picture of a prototype, (Y, X, 3) uint8.

        Raises:
            CheckpointError: the file is missing or broken.
        """
        path = self.folder / picture_name(index, kind)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if (image.height, image.width) != self.image_size:
                    raise ValueError(f"{image.width} x {image.height} pixels")
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, *_BOMBS) as error:
            raise CheckpointError(f"{path}: must be a picture of the run; it cannot be read ({error}).") from error

    def field_for(self, image: Tensor) -> ReceptiveField | None:
        """The receptive field, if `image` (C, Y, X) is of the size that it was found for."""
        return self.receptive_field if tuple(image.shape[1:]) == self.image_size else None

    def comes_from(self, push: PushResult, model: PrototypeModel) -> bool:
        """Whether these are the prototypes of that push, in a net of these weights as far as the files know theirs."""
        if self.weights is not None and self.weights != _weights_of(model):
            return False
        images = [-1 if record.source is None else record.source.image for record in self.prototypes]
        columns = self.grid[1]
        patches = [
            -1 if record.source is None else record.source.patch[0] * columns + record.source.patch[1]
            for record in self.prototypes
        ]
        return images == push.image.tolist() and patches == push.patch.tolist()


def _weights_of(model: PrototypeModel) -> str:
    return fingerprint_of_weights(nn.ModuleList([model.backbone, model.add_on_layers, model.prototype_layer]))


def picture_name(index: int, kind: str) -> str:
    """Name of a prototype's "image", "box" or "heat" picture."""
    return f"{index:04d}-{kind}.png"


def write_prototypes(run_dir: Path, model: PrototypeModel, splits: Splits, push_result: PushResult) -> PrototypeFiles:
    """Write RUN/prototypes for a model after a push, in place of an older one.

    Every source image goes through the net once; activation maps are made only for the prototypes that come from it.

    Args:
        run_dir: the run folder; exists.
        model: after the push (and after pruning, if it was pruned).
        splits: its `push` set is that of the push, in the same order.
        push_result: with one entry for every prototype that the model has now.

    Raises:
        ValueError: `push_result` is of another number of prototypes.
        DataError: `splits` has fewer images than the push had.
        CheckpointError: the disk is full or refuses, or the older folder holds what it did not write; that folder is
            then whole.
    """
    _check(model, splits, push_result)
    check_prototypes_folder(run_dir)
    folder = run_dir / "prototypes"
    temporary = temporary_path(folder)
    images = sorted({image for image in push_result.image.tolist() if image >= 0})
    with explain_write_errors(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
            temporary.mkdir(parents=True)
            first = splits.push[images[0] if images else 0][0]
            parameter = next(model.parameters())
            with evaluating(model):
                field = find_receptive_field(model.features, first.to(parameter.device, parameter.dtype))
                sources = _write_pictures(temporary, model, splits.push, push_result, images, field)
            written = PrototypeFiles(
                folder=folder,
                image_size=(first.shape[1], first.shape[2]),
                grid=push_result.grid,
                receptive_field=field,
                prototypes=_records(model, splits.classes, sources),
                weights=_weights_of(model),
            )
            write_synced(temporary / _TABLE, to_json_bytes(_to_table(written)))
            list_folder(temporary, PROTOTYPES)
            remove_folder(folder)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return written


def _check(model: PrototypeModel, splits: Splits, push_result: PushResult) -> None:
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
    folder: Path,
    model: PrototypeModel,
    dataset: ImageDataset,
    push: PushResult,
    images: Sequence[int],
    field: ReceptiveField,
) -> dict[int, PrototypeSource]:
    """Write the three pictures of every prototype that has a source; where each comes from, by index."""
    parameter = next(model.parameters())
    of_image: dict[int, list[int]] = {image: [] for image in images}
    for prototype, image in enumerate(push.image.tolist()):
        if image >= 0:
            of_image[image].append(prototype)
    sources = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        tensors = torch.stack([dataset[image][0] for image in batch])
        features = model.features(tensors.to(parameter.device, parameter.dtype))
        for image, tensor, feature in zip(batch, tensors, features, strict=True):
            picture, name = to_picture(tensor), dataset.sample_name(image)
            for view in view_patches(model, feature, push.patch, of_image[image], tensor.shape[1:], field):
                _save_pictures(folder, picture, view)
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


def _save_pictures(folder: Path, picture: np.ndarray, view: PatchView) -> None:
    pictures = {
        "image": picture,
        "box": draw_box(picture, view.patch_box),
        "heat": overlay_heat(picture, view.heat_map),
    }
    for kind, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / picture_name(view.prototype, kind))


def _records(
    model: PrototypeModel, classes: Sequence[str], sources: dict[int, PrototypeSource]
) -> tuple[PrototypeRecord, ...]:
    return tuple(
        PrototypeRecord(index=index, classes=weights, source=sources.get(index))
        for index, weights in enumerate(class_weights(model, classes))
    )


def class_weights(model: PrototypeModel, classes: Sequence[str]) -> list[tuple[ClassWeight, ...]]:
    """For every prototype the classes that it belongs to, by index, and its weight for each of them.

    Raises:
        ValueError: the model still chooses which prototypes its classes use.
    """
    weight = model.prototype_weight.detach().cpu()  # (K, P)
    return [
        tuple(ClassWeight(k, classes[k], float(weight[k, index])) for k in row.nonzero().flatten().tolist())
        for index, row in enumerate(model.class_identity.cpu() > 0)
    ]


def _to_table(files: PrototypeFiles) -> dict[str, Any]:
    entries = []
    for record in files.prototypes:
        entry = asdict(record) | {"classes": [one._asdict() for one in record.classes]}
        if record.source is not None:
            entry["pictures"] = {kind: picture_name(record.index, kind) for kind in ("image", "box", "heat")}
        entries.append(entry)
    return {
        "format": FORMAT,
        "weights": files.weights,
        "image_size": files.image_size,
        "grid": files.grid,
        "receptive_field": asdict(files.receptive_field),
        "prototypes": entries,
    }


def store_frames(files: PrototypeFiles) -> None:
    """Write the sufficient frames that were found for some prototypes into their folder.

    Raises:
        CheckpointError: the table there was changed by somebody else, or the disk is full or refuses.
    """
    path = files.folder / _TABLE
    outputs = claim_outputs(files.folder, [_TABLE], by=PROTOTYPES, argument=str(files.folder), trusts_unlisted=True)
    with explain_write_errors(path):
        outputs.replace(path, to_json_bytes(_to_table(files)))


def read_prototypes(run_dir: Path) -> PrototypeFiles | None:
    """Read RUN/prototypes; None if the run has none yet.

    Sufficient frames are left out where the files do not say which weights they were found with.

    Raises:
        CheckpointError: it is broken or of another format.
    """
    folder = run_dir / "prototypes"
    path = folder / _TABLE
    if not folder.exists():
        return None
    table = read_json(path)
    check_format(path, table, FORMAT, oldest=OLDEST, remedy=_REMEDY)
    try:
        return _files_from_table(folder, table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: must describe every prototype; it is broken ({type(error).__name__}: {error}). "
            "Remove its folder and run 'protokern report RUN --data DIR' to make it anew."
        ) from error


def _files_from_table(folder: Path, table: dict[str, Any]) -> PrototypeFiles:
    field = {name: tuple(map(tuple, ends)) for name, ends in table["receptive_field"].items()}
    weights = table.get("weights")
    if weights is not None and not isinstance(weights, str):
        raise ValueError(f"weights are {weights!r}")
    return PrototypeFiles(
        folder=folder,
        image_size=tuple(table["image_size"]),
        grid=tuple(table["grid"]),
        receptive_field=ReceptiveField(**field),
        prototypes=tuple(_record_from_table(entry, has_frames=weights is not None) for entry in table["prototypes"]),
        weights=weights,
    )


def _record_from_table(entry: dict[str, Any], *, has_frames: bool) -> PrototypeRecord:
    values = {name: value for name, value in entry.items() if name != "pictures"}
    values["classes"] = tuple(ClassWeight(**one) for one in values["classes"])
    if values["source"] is not None:
        source = dict(values["source"])
        source["patch"] = tuple(source["patch"])
        for name in ("activation_box", "patch_box", "receptive_field_box"):
            source[name] = Box(*source[name])
        if not has_frames:
            source["sufficient"] = None
        elif source.get("sufficient") is not None:
            box = source["sufficient"]["box"]
            frame = source["sufficient"] | {"box": None if box is None else Box(*box)}
            source["sufficient"] = SufficientFrame(**frame)
        values["source"] = PrototypeSource(**source)
    return PrototypeRecord(**values)
