"""The stages of a backbone: its last feature map at every size. Listing them, and ending a net after one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from protokern.errors import ConfigError

# Side in pixels of the image that finds the strides: large enough for every net here.
_PROBE = 64


class FeatureStage(NamedTuple):
    """The last feature map of one size.

    Attributes:
        stride: pixels from one cell of the map to the next.
        channels: of the map.
    """

    stride: int
    channels: int


def choose_stage(stage: int, stages: Sequence[FeatureStage], *, name: str) -> int:
    """The index in `stages` for `stage`, which is negative if it counts from the last one.

    Raises:
        ConfigError: backbone `name` has no such stage; the message lists its stages.
    """
    count = len(stages)
    if not -count <= stage < count:
        known = ", ".join(f"{i} (stride {one.stride}, {one.channels} channels)" for i, one in enumerate(stages))
        raise ConfigError(
            f"backbone_stage: must be a stage of backbone '{name}': {known}, or counted from the last one, "
            f"-1 to -{count}; got {stage}. Choose one of these."
        )
    return stage % count


def end_after(body: nn.Module, stage: int, *, name: str, in_channels: int) -> int | None:
    """Remove from `body` the layers after a stage, in place; those that stay keep their names and weights.

    Args:
        body: a net that runs its children one after the other.
        stage: index of the stage, negative from the last one.
        name: of the backbone, for the message.
        in_channels: of the images.

    Returns:
        The index of the stage from 0; None: it is the last one, and nothing was removed.

    Raises:
        ConfigError: as `choose_stage`.
    """
    paths, maps = zip(*_run(body, in_channels), strict=True)
    ends = [i for i, one in enumerate(maps) if i + 1 == len(maps) or maps[i + 1].stride != one.stride]
    index = choose_stage(stage, [maps[i] for i in ends], name=name)
    if index == len(ends) - 1:
        return None
    _remove_others(body, set(paths[: ends[index] + 1]), "")
    return index


@torch.no_grad()
def _run(body: nn.Module, in_channels: int) -> list[tuple[str, FeatureStage]]:
    """Path of each layer, and its map for one black image; batch norms keep their statistics."""
    was_training, weight = body.training, next(body.parameters())
    image = torch.zeros(1, in_channels, _PROBE, _PROBE, device=weight.device, dtype=weight.dtype)
    body.eval()
    maps = [(path, FeatureStage(_PROBE // x.shape[3], x.shape[1])) for path, x in _maps(body, image, "")]
    body.train(was_training)
    return maps


def _maps(module: nn.Module, x: Tensor, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, child in module.named_children():
        before, x = x, child(x)
        if type(child) is nn.Sequential and before.shape[3] > 2 * x.shape[3]:  # several stages lie inside
            yield from _maps(child, before, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", x


def _remove_others(module: nn.Module, kept: set[str], prefix: str) -> None:
    for name, child in list(module.named_children()):
        path = f"{prefix}{name}"
        if path in kept:
            continue
        if any(one.startswith(f"{path}.") for one in kept):
            _remove_others(child, kept, f"{path}.")
        else:
            delattr(module, name)
