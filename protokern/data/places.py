"""Where the data of a run are, as data.path says it. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

import os
from pathlib import Path

SYNTHETIC_BIRDS = "synthetic-birds"
WEBDATASET, HUGGINGFACE = "webdataset", "huggingface"


def absolute_source(path: str) -> str:
    """`path` in a form valid in any working folder; names of data sets are unchanged."""
    if path in ("", SYNTHETIC_BIRDS):
        return ""
    kind, colon, rest = path.partition(":")
    if colon and kind in (WEBDATASET, HUGGINGFACE):
        is_name = kind == HUGGINGFACE and not Path(rest).is_dir()
        return path if is_name else f"{kind}:{Path(rest).absolute()}"
    return str(Path(path).absolute())


def is_photo_folder(path: str) -> bool:
    """Whether `path` names a folder of photographs, there or not, and neither packed images nor the synthetic birds."""
    kind, colon, _ = path.partition(":")
    return absolute_source(path) != "" and not (colon and kind in (WEBDATASET, HUGGINGFACE))


def folder_of(path: str) -> Path | None:
    """The folder of the data at `path`; None for data without a folder."""
    kind, colon, rest = path.partition(":")
    folder = Path(rest if colon and kind in (WEBDATASET, HUGGINGFACE) else path)
    return folder if path not in ("", SYNTHETIC_BIRDS) and folder.is_dir() else None


def name_of(path: str) -> str:
    """A short name for the data at `path`, which is visible as that of a file: "birds" for the synthetic birds."""
    if path in ("", SYNTHETIC_BIRDS):
        return "birds"
    kind, colon, rest = path.partition(":")
    place = rest if colon and kind in (WEBDATASET, HUGGINGFACE) else path
    return os.path.basename(os.path.abspath(place)).lstrip(".") or "data"
