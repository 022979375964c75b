"""The stages of a backbone: its last feature map at every size. Listing them, and ending a net after one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.backbones.shapes import quick_shapes
from protokern.errors import ConfigError
from protokern.kernels.salience import lengths_of, share_of_largest

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


def choose_stage(stage: int, stages: Sequence[FeatureStage], *, name: str, setting: str = "backbone_stage") -> int:
    """The index in `stages` for `stage`, which is negative if it counts from the last one.

    Raises:
        ConfigError: backbone `name` has no such stage; the message lists its stages and names the `setting`.
    """
    count = len(stages)
    if not -count <= stage < count:
        known = ", ".join(f"{i} (stride {one.stride}, {one.channels} channels)" for i, one in enumerate(stages))
        raise ConfigError(
            f"{setting}: must be a stage of backbone '{name}': {known}, or counted from the last one, "
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
    layers = list(_run(body, in_channels))
    ends = _ends(layers)
    index = choose_stage(stage, [layers[i][1] for i in ends], name=name)
    if index == len(ends) - 1:
        return None
    _remove_others(body, {path for path, _ in layers[: ends[index] + 1]}, "")
    return index


def find_earlier(body: nn.Module, stage: int, *, name: str, in_channels: int) -> tuple[int, str]:
    """The stage of `body` whose lengths weigh the features: its index from 0, and the path of its last layer.

    Args:
        body, name, in_channels: as for `end_after`.
        stage: negative from the last stage of `body`.

    Raises:
        ConfigError: there is no such stage before the last one.
    """
    layers = list(_run(body, in_channels))
    ends = _ends(layers)
    index = choose_earlier(stage, [layers[i][1] for i in ends], name=name)
    return index, layers[ends[index]][0]


def choose_earlier(stage: int, stages: Sequence[FeatureStage], *, name: str) -> int:
    """As `choose_stage`, for `model.salience_stage`.

    Raises:
        ConfigError: there is no such stage, or it is the last one.
    """
    index = choose_stage(stage, stages, name=name, setting="salience_stage")
    if index == len(stages) - 1:
        raise ConfigError(
            f"salience_stage: must be a stage before the one that gives the features of backbone '{name}'; got "
            f"{stage}, that one itself. Choose an earlier one, such as -2, or leave it out."
        )
    return index


def run_with_lengths(body: nn.Module, path: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What `body` gives for x, and the lengths (B, 1, h, w) of the vectors after its layer at `path`."""
    first, _, rest = path.partition(".")
    lengths: Tensor | None = None
    for name, child in body.named_children():
        if name != first:
            x = child(x)
        elif rest:
            x, lengths = run_with_lengths(child, rest, x)
        else:
            x = child(x)
            lengths = lengths_of(x)  # at once, because the next layer may overwrite x
    assert lengths is not None
    return x, lengths


def weigh(maps: Tensor, lengths: Tensor) -> Tensor:
    """`maps` (B, C, H, W), each patch times the mean of the finer `lengths` (B, 1, h, w) in its place, as a share of
    the largest such mean of the image.
    """
    rows, columns = maps.shape[2], maps.shape[3]
    if isinstance(rows, torch.SymInt) or isinstance(columns, torch.SymInt):
        means = means_for_any_size(lengths, rows, columns)
    else:
        means = F.adaptive_avg_pool2d(lengths, (rows, columns))
    return (maps * share_of_largest(means)).to(maps.dtype)


def means_for_any_size(lengths: Tensor, rows: int, columns: int) -> Tensor:
    """What `adaptive_avg_pool2d` gives, as products of matrices: for a program that is traced for images of any size,
    because other runtimes have no such pool."""
    down = _shares(lengths.shape[2], rows, lengths)  # (H, h)
    across = _shares(lengths.shape[3], columns, lengths)  # (W, w)
    return torch.matmul(torch.matmul(down, lengths), across.T)


def _shares(fine: int, coarse: int, like: Tensor) -> Tensor:
    """(coarse, fine): how much each of the finer cells counts in the mean of each coarser one."""
    cell = torch.arange(coarse, device=like.device)[:, None]
    place = torch.arange(fine, device=like.device)
    first = torch.div(cell * fine, coarse, rounding_mode="floor")
    end = torch.div((cell + 1) * fine + coarse - 1, coarse, rounding_mode="floor")
    is_inside = (place >= first) & (place < end)
    return is_inside.to(like.dtype) / (end - first).to(like.dtype)


def _ends(layers: Sequence[tuple[str, FeatureStage]]) -> list[int]:
    """Which layers are the last of a stage."""
    maps = [one for _, one in layers]
    return [i for i, one in enumerate(maps) if i + 1 == len(maps) or maps[i + 1].stride != one.stride]


@torch.no_grad()
def _run(body: nn.Module, in_channels: int) -> list[tuple[str, FeatureStage]]:
    """Path of each layer, and its map for one black image; batch norms keep their statistics."""
    was_training, weight = body.training, next(body.parameters())
    image = torch.zeros(1, in_channels, _PROBE, _PROBE, device=weight.device, dtype=weight.dtype)
    body.eval()
    with quick_shapes(body):
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
