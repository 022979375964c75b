"""Links in a data folder: none may bring an image into two classes, and links to other places are reported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protokern.data.account import PassedOver, counted, listed
from protokern.errors import DataError

if TYPE_CHECKING:
    from protokern.data.dataset import Sample


def check_links(
    root: Path, samples: Mapping[str, Sequence[Sample]], classes: Sequence[str], passed: PassedOver
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Resolve every link to the samples of all splits.

    Args:
        root: the data folder.
        samples: files and class indices, by split.
        classes: class names.
        passed: gets links to images of the same class and split, which would count twice.

    Returns:
        The samples that count, and lines for the log.

    Raises:
        DataError: one file is in two classes.
    """
    real_root = Path(os.path.realpath(root))
    real = _real_paths(root, real_root, samples)
    first: dict[str, tuple[Path, int, str]] = {}
    outside: list[Path] = []
    across: list[Path] = []
    order = [(split, path, label) for split, some in samples.items() for path, label in some]
    # Files before links, so that the link is reported as the duplicate.
    order.sort(key=lambda entry: real[entry[1]] != str(real_root / entry[1].relative_to(root)))
    dropped = set()
    for split, path, label in order:
        target = real[path]
        known = first.setdefault(target, (path, label, split))
        if known[0] != path:
            if known[1] != label:
                raise DataError(
                    f"data: must have each image in one class; {path}, of class {classes[label]}, leads to "
                    f"{known[0]}, of class {classes[known[1]]}. Remove the link."
                )
            if known[2] == split:
                dropped.add(path)
                passed.add("by a link to an image that counts already", path.relative_to(root).as_posix())
                continue
            across.append(path)
        if not Path(target).is_relative_to(real_root):
            outside.append(path)
    kept = {split: [sample for sample in some if sample[0] not in dropped] for split, some in samples.items()}
    notes = []
    if outside:
        names = listed([f"{path.relative_to(root).as_posix()} to {real[path]}" for path in sorted(outside)], 2)
        notes.append(f"{counted(outside, 'image')} by links that lead out of the data folder: {names}")
    if across:
        names = listed([path.relative_to(root).as_posix() for path in sorted(across)], 2)
        notes.append(f"{counted(across, 'image')} in two splits, by links: {names}")
    return kept, notes


def _real_paths(root: Path, real_root: Path, samples: Mapping[str, Sequence[Sample]]) -> dict[Path, str]:
    """The real path of every file. Only those behind links are resolved, because that takes many calls per file."""
    folders: dict[Path, str] = {}
    real = {}
    for some in samples.values():
        for path, _ in some:
            if path.parent not in folders:
                folders[path.parent] = os.path.realpath(path.parent)
            real[path] = os.path.realpath(path) if path.is_symlink() else os.path.join(folders[path.parent], path.name)
    return real
