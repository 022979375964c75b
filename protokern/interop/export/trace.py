"""A module of plain operations as a program of torch, for any number of images and, where possible, any size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from protokern.backbones.folding import folded_batch_norms
from protokern.errors import ExportError
from protokern.interop.export.plain_net import Answers, PlainMaps, PlainNet, grid_of
from protokern.interop.export.same_padding import is_padded_by_size, same_convolutions
from protokern.models.base import PrototypeModel


def fixed_size_reason(backbone: nn.Module) -> str | None:
    """Why a backbone takes images of one size alone in an exported file; None: it takes any."""
    body = getattr(backbone, "body", backbone)
    if getattr(body, "only_size", None) is not None:
        return "its backbone takes images of one size"
    if getattr(body, "patch_size", None) is not None:
        return "its backbone is a vision transformer, whose position embeddings are resized while the file is written"
    return None


class FusedNet(nn.Module):
    """A model from images to the answers of `PlainNet`, with its own ops.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: PrototypeModel) -> None:
        super().__init__()
        self.model, self.backbone = model, model.backbone
        self.size = model.prototype_layer.prototype_size
        self.has_distance = model.prototype_layer.vectors is not None

    def forward(self, image: Tensor) -> Answers:
        features = self.model.features(image)
        output = self.model.head(features)
        answers = {"logits": output.logits, "similarity": output.activations}
        if self.has_distance:
            answers["distance"] = output.min_distances
        grid = (features.shape[2] - self.size[0] + 1, features.shape[3] - self.size[1] + 1)
        return {**answers, "patch": output.patches, "grid": grid_of(grid)}


def pads_by_size(backbone: nn.Module) -> bool:
    """Whether zeros at the edges depend on the size of the images, so that a program for any size would need choices
    that depend on it."""
    return any(is_padded_by_size(part) for part in backbone.modules())


def trace(
    net: PlainNet | PlainMaps | FusedNet,
    image_size: tuple[int, int],
    channels: int,
    *,
    any_size: bool,
    for_onnx: bool = False,
) -> ExportedProgram:
    """Trace a net.

    Args:
        net: in evaluation mode.
        image_size: (Y, X), pixels; the only one, unless `any_size`.
        channels: of the images.
        any_size: let the sides of the images vary too.
        for_onnx: let convolutions that pad by the size of their images be an op that only `translations` knows.

    Raises:
        ExportError: torch cannot trace the backbone.
    """
    # Sizes of 1, and equal sizes, would be taken for fixed ones, or for one and the same.
    height, width = image_size
    images = torch.zeros(3, channels, height, width + (_spare(width) if any_size and height == width else 0))
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if any_size else {0: Dim.DYNAMIC}
    inputs: tuple[Tensor, ...] = (images,)
    shapes: tuple[dict[int, object], ...] = (free,)
    if isinstance(net, PlainMaps):
        inputs, shapes = (images, torch.arange(2)), (free, {0: Dim.DYNAMIC})
    same = same_convolutions(net.backbone) if for_onnx else nullcontext()
    with folded_batch_norms(net.backbone), same, torch.no_grad(), quiet():
        try:
            return torch.export.export(net, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch raises its own errors, ValueError, AssertionError and others
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            advice = "Use --size fixed." if any_size else "Export another backbone."
            raise ExportError(f"model: must be one that torch can trace; it cannot ({reason}). {advice}") from error


def _spare(side: int) -> int:
    """Pixels to add to a side, so that the grid gets another column."""
    return max(32, side // 4)


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block what torch and onnxscript warn of in their own code, and log, is not shown."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
