"""Opening an ensemble: a folder with an `ensemble.toml` that names finished runs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from protokern.config.run import LARGEST_CONFIG
from protokern.errors import CheckpointError
from protokern.models.ensemble import COMBINATIONS, Ensemble, adds_up
from protokern.runs.checkpoints import ENSEMBLE_FILE
from protokern.runs.open import OpenRun, check_final, open_run
from protokern.storage.files import read_file

_ALIKE = ("image_size", "channels", "grey_range")  # settings of the data without which no image is the same to all


@dataclass(frozen=True, slots=True)
class OpenEnsemble:
    """The models of some runs, opened to answer together.

    Attributes:
        folder: with the `ensemble.toml`.
        members: the runs, whose models are those of `model`.
        model: on the device, in evaluation mode.
    """

    folder: Path
    members: tuple[OpenRun, ...]
    model: Ensemble

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.members[0].classes

    @property
    def names(self) -> tuple[str, ...]:
        """Of the members: those of their folders, with the folder above where they repeat."""
        folders = [run.folder.resolve() for run in self.members]
        short = [folder.name for folder in folders]
        return tuple(
            name if short.count(name) == 1 else f"{folder.parent.name}/{name}"
            for name, folder in zip(short, folders, strict=True)
        )


def is_ensemble(path: Path | str) -> bool:
    """Whether `path` is the folder of an ensemble."""
    return (Path(path) / ENSEMBLE_FILE).is_file()


def open_ensemble(
    path: Path | str,
    *,
    data: str | None = None,
    changes: Sequence[str] = (),
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a device does not change
) -> OpenEnsemble:
    """Open the runs that the `ensemble.toml` in a folder names.

    The file has `members`, a list of run folders or checkpoints, relative to it; and, if wanted, `combine`, see
    `Ensemble`.

    Args:
        path: the folder.
        data, changes, device: for every run, as in `open_run`.

    Raises:
        CheckpointError: the file or a run is broken; there are fewer than two runs; or they have other classes, other
            images or choices that are not final.
        ConfigError: as `open_run`.
    """
    file = Path(path) / ENSEMBLE_FILE
    folders, combine = _read(file)
    members = tuple(check_final(open_run(one, data=data, changes=changes, device=device)) for one in folders)
    _check_alike(file, members)
    model = Ensemble([run.model for run in members], combine).eval()
    return OpenEnsemble(Path(path), members, model)


def _read(file: Path) -> tuple[list[Path], Any]:
    try:
        table = tomllib.loads(read_file(file, LARGEST_CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: must be TOML; got something else ({error}). Write it again.") from error
    unknown = sorted({*table} - {"members", "combine"})
    if unknown:
        raise CheckpointError(f"{file}: must have members and combine alone; got {', '.join(unknown)}. Take it out.")
    members, combine = table.get("members"), table.get("combine", "auto")
    if not isinstance(members, list) or not all(isinstance(one, str) for one in members):
        raise CheckpointError(
            f'{file}: members must be a list of run folders, such as ["../a", "../b"]; got {members!r}.'
        )
    if combine not in (*COMBINATIONS, "auto"):
        wanted = ", ".join((*COMBINATIONS, "auto"))
        raise CheckpointError(f"{file}: combine must be one of {wanted}; got {combine!r}. Check the spelling.")
    folders = [file.parent / one for one in members]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise CheckpointError(f"{file}: members must be two or more different runs; got {members}. Name the others.")
    return folders, combine


def _check_alike(file: Path, members: Sequence[OpenRun]) -> None:
    first = members[0]
    for other in members[1:]:
        if other.classes != first.classes:
            strangers = sorted({*first.classes} ^ {*other.classes})
            got = f"{', '.join(strangers[:5])} in one of them alone" if strangers else "another order"
            raise CheckpointError(
                f"{file}: members must have the same classes in the same order; {first.folder} and {other.folder} "
                f"have not: {got}. Leave one out."
            )
        for key in _ALIKE:
            ours, theirs = getattr(first.config.data, key), getattr(other.config.data, key)
            if ours != theirs:
                raise CheckpointError(
                    f"{file}: members must read images alike; {first.folder} has data.{key} {ours!r}, {other.folder} "
                    f"{theirs!r}. Leave one out."
                )


def check_adds_up(opened: OpenEnsemble) -> OpenEnsemble:
    """Return the ensemble; raise a CheckpointError unless the points of its members add up to its answer."""
    for run in opened.members:
        if not adds_up(run.model):
            raise CheckpointError(
                f"{opened.folder}: must have members whose points add up to their logits to be explained as one; those "
                f"of {run.folder}, a {run.config.model.name}, do not. Explain its members one by one."
            )
    if opened.model.combine != "sum":
        raise CheckpointError(
            f"{opened.folder}: must add up its members' points to be explained; got combine "
            f'{opened.model.combine!r}. Set combine = "sum" in {ENSEMBLE_FILE}, or explain its members one by one.'
        )
    return opened
