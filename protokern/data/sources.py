"""Opens whatever a run was given as its data."""

from __future__ import annotations

from pathlib import Path

from protokern.data.augment import Augmentation
from protokern.data.folder import open_photo_folder
from protokern.data.splits import Splits


def open_splits(
    root: Path | str,
    *,
    image_size: int | tuple[int, int],
    val_fraction: float = 0.1,
    seed: int = 0,
    augmentation: str | Augmentation | None = "protopnet",
    on_unreadable: str = "stop",
    cache: str = "none",
) -> Splits:
    """Open a data folder; see `open_photo_folder` for the arguments and errors."""
    return open_photo_folder(
        Path(root),
        image_size=image_size,
        val_fraction=val_fraction,
        seed=seed,
        augmentation=augmentation,
        on_unreadable=on_unreadable,
        cache=cache,
    )
