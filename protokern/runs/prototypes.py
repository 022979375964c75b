"""The prototypes of a run as files: where each comes from, and pictures of it.

    RUN/prototypes/prototypes.json     one entry for each prototype, and the receptive field of the model
    RUN/prototypes/0007-image.png      the training image that prototype 7 is a patch of
    RUN/prototypes/0007-box.png        the same with a frame around the highest-activated part
    RUN/prototypes/0007-heat.png       the same under its heat map

The folder is written under a temporary name and then renamed, so it is always complete. Files of others in it are never
lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor, nn

from protokern.errors import CheckpointError
from protokern.features import fingerprint_of_weights
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.results.places import Box, ReceptiveField, SufficientFrame
from protokern.results.prototypes import ClassWeight, Prototype, PrototypeSource
from protokern.runs.folder import PROTOTYPES, check_prototypes_folder
from protokern.storage.files import read_table, replacing_folder, to_json_bytes, translate_write_errors, write_synced
from protokern.storage.outputs import claim_outputs, list_folder

FORMAT = "protokern-prototypes-3"
OLDEST = 2
_TABLE = "prototypes.json"
_COMPRESSION = 3  # of a picture: less than half the time of 6, the usual one, for files 4 % larger
_REMEDY = "Remove its folder and run 'protokern report RUN --data DIR' to write it again."
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
PictureKind = Literal["image", "box", "heat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeFiles:
    """The folder of a run's prototypes.

    Attributes:
        folder: the folder of the pictures.
        image_size: (Y, X) of the images, pixels.
        grid: (H', W') of the patches.
        receptive_field: of the model for images of this size.
        prototypes: by index.
        weights: a fingerprint of the net and the vectors with which boxes, maps and frames were found, see
            `weights_of`; None: an older version wrote the files.
    """

    folder: Path
    image_size: tuple[int, int]
    grid: tuple[int, int]
    receptive_field: ReceptiveField
    prototypes: tuple[Prototype, ...]
    weights: str | None

    def picture(self, index: int, kind: PictureKind) -> np.ndarray:
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
        """The receptive field, if `image` (C, Y, X) has the size for which it was computed."""
        return self.receptive_field if tuple(image.shape[1:]) == self.image_size else None

    def comes_from(self, push: PushResult, model: PrototypeModel) -> bool:
        """Whether these are the prototypes of that push and, if the files name the weights, of the same weights."""
        if self.weights is not None and self.weights != weights_of(model):
            return False
        images = [-1 if record.source is None else record.source.image for record in self.prototypes]
        columns = self.grid[1]
        patches = [
            -1 if record.source is None else record.source.patch[0] * columns + record.source.patch[1]
            for record in self.prototypes
        ]
        return images == push.image.tolist() and patches == push.patch.tolist()


def weights_of(model: PrototypeModel) -> str:
    """A fingerprint of backbone, add-on layers and prototypes, on which boxes, maps and frames depend."""
    layer = model.prototype_layer
    assert isinstance(layer, nn.Module)
    return fingerprint_of_weights(nn.ModuleList([model.backbone, model.add_on_layers, layer]))


def picture_name(index: int, kind: PictureKind) -> str:
    """Name of a prototype's "image", "box" or "heat" picture."""
    return f"{index:04d}-{kind}.png"


class NewPrototypes:
    """The folder of a run's prototypes while it is being written; see `new_prototypes`."""

    def __init__(self, place: Path, folder: Path) -> None:
        self._place, self._folder = place, folder

    def add_picture(self, index: int, kind: PictureKind, pixels: np.ndarray) -> None:
        """Write a picture of a prototype, (Y, X, 3) uint8."""
        Image.fromarray(pixels).save(self._place / picture_name(index, kind), compress_level=_COMPRESSION)

    def finish(
        self,
        *,
        image_size: tuple[int, int],
        grid: tuple[int, int],
        receptive_field: ReceptiveField,
        prototypes: tuple[Prototype, ...],
        weights: str,
    ) -> PrototypeFiles:
        """Write the table after all pictures; arguments as the attributes of `PrototypeFiles`."""
        written = PrototypeFiles(
            folder=self._folder,
            image_size=image_size,
            grid=grid,
            receptive_field=receptive_field,
            prototypes=prototypes,
            weights=weights,
        )
        write_synced(self._place / _TABLE, to_json_bytes(_to_table(written)))
        list_folder(self._place, PROTOTYPES)
        return written


@contextmanager
def new_prototypes(run_dir: Path) -> Iterator[NewPrototypes]:
    """A new RUN/prototypes, which replaces an older one when the block ends.

    Args:
        run_dir: the run folder; exists.

    Raises:
        CheckpointError: the disk is full or not writable, or the older folder holds files that protokern did not
            write; the older folder is then kept.
    """
    check_prototypes_folder(run_dir)
    folder = run_dir / "prototypes"
    with translate_write_errors(folder), replacing_folder(folder) as place:
        yield NewPrototypes(place, folder)


def _to_table(files: PrototypeFiles) -> dict[str, Any]:
    entries = []
    for record in files.prototypes:
        entry = {
            "index": record.index,
            "classes": [one._asdict() for one in record.classes],
            "source": None if record.source is None else asdict(record.source),
        }
        if record.source is not None:
            entry["pictures"] = {kind: picture_name(record.index, kind) for kind in get_args(PictureKind)}
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
        CheckpointError: the table there was changed by hand, or the disk is full or not writable.
    """
    path = files.folder / _TABLE
    outputs = claim_outputs(files.folder, [_TABLE], by=PROTOTYPES, argument=str(files.folder), trusts_unlisted=True)
    outputs.replace(path, to_json_bytes(_to_table(files)))


def read_prototypes(run_dir: Path) -> PrototypeFiles | None:
    """Read RUN/prototypes; None if the run has none yet.

    Sufficient frames are left out if the files do not say with which weights they were found.

    Raises:
        CheckpointError: a file is broken or of another format.
    """
    folder = run_dir / "prototypes"
    path = folder / _TABLE
    if not folder.exists():
        return None
    table = read_table(path, FORMAT, oldest=OLDEST, remedy=_REMEDY)
    try:
        return _files_from_table(folder, table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: must describe every prototype; it is broken ({type(error).__name__}: {error}). "
            "Remove its folder and run 'protokern report RUN --data DIR' to write it again."
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


def _record_from_table(entry: dict[str, Any], *, has_frames: bool) -> Prototype:
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
    return Prototype(**values)
