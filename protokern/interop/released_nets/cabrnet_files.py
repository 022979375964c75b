"""The YAML files of CaBRNet: read without any objects, and what they say of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError, import_optional

DATA = "dataset.yml"
_LARGEST_YAML = 1 << 20  # bytes


def read_yaml(path: Path) -> dict[str, Any]:
    """A table of YAML, without any objects.

    Raises:
        MissingPackageError: pyyaml is not installed.
        CheckpointError: the file is no table, or cannot be read.
    """
    yaml = import_optional("yaml", package="pyyaml", needed_for=f"CaBRNet's {path.name}", install="'protokern[import]'")
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise CheckpointError(f"{path}: must have at most {_LARGEST_YAML} bytes.")
        # Anchors could make a small file a huge table; CaBRNet writes none.
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise CheckpointError(f"{path}: must have no aliases. Write them out.")
        table = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: must be a YAML file of CaBRNet; it cannot be read ({reason}).") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: must be a table; got {type(table).__name__}.")
    return table


def table_at(table: Any, *names: str) -> Mapping[str, Any]:
    """The table below `names`; empty if there is none."""
    for name in names:
        table = table.get(name) if isinstance(table, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def text_at(table: Any, *names: str) -> str:
    found = table_at(table, *names[:-1]).get(names[-1])
    return "" if found is None else str(found)


def images_of(folder: Path) -> tuple[int | tuple[int, int] | None, Any]:
    """The size and the normalisation of the images from dataset.yml, if it is there and says them."""
    if not (folder / DATA).is_file():
        return None, None
    sets = read_yaml(folder / DATA)
    table: Any = next((sets[name] for name in ("test_set", "projection_set", "train_set") if name in sets), {})
    transform = table_at(table, "params", "transform")
    size, normalisation = None, None
    for value in transform.values():
        params = table_at(value, "params")
        if text_at(value, "type") == "Resize":
            size = _as_size(params.get("size"))
        if text_at(value, "type") == "Normalize":
            mean, std = (tuple(float(one) for one in params.get(name, ())) for name in ("mean", "std"))
            normalisation = (mean, std) if len(mean) == len(std) == 3 else None
    if transform and normalisation is None:
        normalisation = ((0.0,) * 3, (1.0,) * 3)  # the net takes images as they are
    return size, normalisation


def _as_size(size: Any) -> int | tuple[int, int] | None:
    if isinstance(size, list) and len(size) == 2 and all(isinstance(one, int) for one in size):
        return size[0] if size[0] == size[1] else (size[0], size[1])
    return size if isinstance(size, int) else None
