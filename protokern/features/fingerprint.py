"""What the features of a store depend on, as short texts, and how they were computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from protokern.errors import DataError

EAGER = "eager"
_LENGTH = 32  # of 64 hexadecimal digits


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What the features of a store depend on.

    Attributes:
        weights: of the backbone, see `fingerprint_of_weights`.
        transform: what is done to an image before the backbone sees it, in words.
        files: the images, see `fingerprint_of_files`.
        arithmetic: how the features were computed: "eager", layer by layer; "fused", see `fused_layers` of
            `protokern.backbones.fusing`. They differ by rounding alone, so features of one may be read for the other,
            but a store is of one of them from end to end.
    """

    weights: str
    transform: str
    files: str
    arithmetic: str = EAGER

    def differences(self, other: Fingerprint) -> list[str]:
        """Which of weights, transform and files differ, by name."""
        return [name for name in ("weights", "transform", "files") if getattr(self, name) != getattr(other, name)]


def fingerprint_of_weights(backbone: nn.Module) -> str:
    """Fingerprint of its stages, the classes of all layers and every bit of the parameters and buffers.

    Its stages are the one that it ends after and the one whose lengths weigh its features.

    Device and memory format do not count.
    """
    digest = hashlib.sha256()
    stage = getattr(backbone, "stage", None)  # two stages may have the same layers
    if isinstance(stage, int):
        digest.update(f"stage:{stage}\n".encode())
    weighing = getattr(backbone, "salience_stage", None)  # it has no layers of its own
    if isinstance(weighing, int):
        digest.update(f"salience stage:{weighing}\n".encode())
    for name, module in backbone.named_modules():
        digest.update(f"{name}:{type(module).__qualname__}\n".encode())
    for name, value in backbone.state_dict().items():
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()[:_LENGTH]


def fingerprint_of_files(images: Iterable[tuple[str, int, Path | None]]) -> str:
    """Fingerprint of the (name, label, file) of every image, in order, with the size and modification time of its file.

    Images without a file count by name and label. Names are compared, not the places of the files.

    Raises:
        DataError: a file is missing.
    """
    digest = hashlib.sha256()
    for name, label, path in images:
        digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))  # a name may be any bytes
        if path is not None:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}). Restore the file.") from error
            digest.update(f"{status.st_size}\0{status.st_mtime_ns}\0".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:_LENGTH]
