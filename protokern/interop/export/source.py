"""What is exported: a trained model, and what people and programs must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from protokern.config import config_to_dict
from protokern.errors import CheckpointError
from protokern.interop.export.plain_search import Repair
from protokern.models.base import PrototypeModel
from protokern.results.prototypes import Prototype
from protokern.runs.checkpoints import WEIGHTS_FILE
from protokern.runs.open import OpenRun, check_final
from protokern.storage.files import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A trained model, its classes and its prototypes.

    Attributes:
        model: on the CPU, in float32 and in evaluation mode.
        name: of the model, for people.
        classes: class names, in the order of the logits.
        image_size: (Y, X) of the images that it was trained on, pixels.
        channels: of the images.
        settings: the tables of the run's configuration.
        prototypes: all of them, by index; with their sources and pictures, if these are known.
        checksum: SHA-256 of the weights' file; "" if there is none.
        folder: the run folder; None: the model is of no run.
        checkpoint: its name in that folder.
        license: the name of a licence, such as "cc-by-4.0"; "" if it is not known.
    """

    model: PrototypeModel
    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    settings: dict[str, Any]
    prototypes: tuple[Prototype, ...]
    checksum: str = ""
    folder: Path | None = None
    checkpoint: str = ""
    license: str = ""

    @property
    def model_name(self) -> str:
        """The model's name in a configuration."""
        return str(self.settings["model"]["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How a format is written.

    Attributes:
        repair: how the distances of candidates are computed again, see `PlainSearch`.
        any_size: whether the sides of images may vary.
        heat_maps: whether a second file gives maps of similarity.
    """

    repair: Repair = "topk"
    any_size: bool = True
    heat_maps: bool = False


def source_of_run(run: OpenRun, prototypes: Sequence[Prototype], *, license: str = "") -> ExportSource:
    """The model of a run folder or a checkpoint.

    Args:
        run: opened on the CPU.
        prototypes: all of them, by index.
        license: see `ExportSource`.

    Raises:
        CheckpointError: the classes of the model still choose their prototypes.
    """
    check_final(run)
    size = run.config.data.image_size
    return ExportSource(
        model=run.model.to(torch.device("cpu"), torch.float32).eval(),
        name=run.folder.name,
        classes=run.classes,
        image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        channels=run.config.data.channels,
        settings=config_to_dict(run.config),
        prototypes=tuple(prototypes),
        checksum=_checksum(run.checkpoint / WEIGHTS_FILE),
        folder=run.folder,
        checkpoint=run.checkpoint.name,
        license=license,
    )


def _checksum(path: Path) -> str:
    try:
        return sha256(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: must be the weights of the run; they cannot be read ({error}).") from error
