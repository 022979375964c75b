"""What every system's importer is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState

MOST_ENTRIES = 1 << 28  # of a table that is made of a few numbers in a file


@dataclass(frozen=True, kw_only=True)
class Source:
    """A released network and what lies beside it.

    Attributes:
        state: the network of the file.
        folder: where the file is.
        arch: the table of CaBRNet's model_arch.yml; None without one.
        system: the system that the caller names; None: to be recognised.
        tree_map: the row of the prototypes by the path to a branch, such as "l.r"; None: from the file.
    """

    state: NetworkState
    folder: Path
    arch: Mapping[str, Any] | None = None
    system: str | None = None
    tree_map: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A released network in the terms of protokern.

    Attributes:
        settings: of `[model]`, but for the backbone.
        num_classes: K.
        backbone: the tensors of the backbone by the names of the released program.
        place: what stands before these names in the network, such as "features.".
        head: all other tensors by the names of protokern's model.
        plain: the logits of maps (B, C, H, W) of the backbone in float64, by the formulas of the released program and
            with the tensors of the file.
        notes: what was inferred, dropped, or should be known.
        image_size: side or (Y, X) in pixels; None: unknown.
        backbone_name: as the file says it; None: it does not.
        stride: pixels from one cell of the map to the next at most, where the program changed the strides of the net;
            None: as in the net.
        without_relu: the program took the map before the ReLU at the end of a DenseNet.
        normalisation: mean and standard deviation of the images' channels, if they are not ImageNet's.
        kept: the rows of the prototypes in the file, if some were left out; None: all.
    """

    settings: dict[str, Any]
    num_classes: int
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    plain: Callable[[Tensor], Tensor]
    place: str = "features."
    notes: tuple[str, ...] = ()
    image_size: int | tuple[int, int] | None = None
    backbone_name: str | None = None
    stride: int | None = None
    without_relu: bool = False
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    kept: tuple[int, ...] | None = None


class System(NamedTuple):
    """A row of the table of systems.

    Attributes:
        name: as `--system` takes it.
        title: for messages.
        recognises: whether a file is of this system.
        convert: the network in our terms.
    """

    name: str
    title: str
    recognises: Callable[[Source], bool]
    convert: Callable[[Source], Converted]


@dataclass
class AddOn:
    """The 1x1 convolutions between backbone and prototypes.

    Attributes:
        kind: protokern's name for them; "" for none.
        weights: of the convolutions in their order, each (weight, bias or None).
    """

    kind: str
    weights: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def __call__(self, maps: Tensor) -> Tensor:
        """Features (B, D, H, W) of maps (B, C, H, W), in their dtype."""
        for number, (weight, bias) in enumerate(self.weights):
            maps = F.conv2d(maps, weight.to(maps), None if bias is None else bias.to(maps))
            if self.kind != "linear":
                maps = maps.sigmoid() if number + 1 == len(self.weights) else maps.relu()
        return maps

    def named(self) -> dict[str, Tensor]:
        """The tensors by protokern's names."""
        found = {}
        for number, (weight, bias) in enumerate(self.weights):
            found[f"add_on_layers.{2 * number}.weight"] = weight
            if bias is not None:
                found[f"add_on_layers.{2 * number}.bias"] = bias
        return found


_SQUASH = ("torch.nn.modules.activation.ReLU", "torch.nn.modules.activation.Sigmoid")


def read_add_on(state: NetworkState, prefix: str) -> AddOn:
    """The add-on layers of a released network, whose convolutions have even numbers.

    Raises:
        CheckpointError: they are of a form that protokern does not have.
    """
    tensors = state.below(prefix)
    numbers = sorted({int(name.partition(".")[0]) for name in tensors if name.partition(".")[0].isdigit()})
    weights = [(state.get(f"{prefix}{number}.weight"), tensors.get(f"{number}.bias")) for number in numbers]
    layers = [state.layers.get(f"{prefix}{number}") for number in range(2 * len(numbers))]
    wanted = [_SQUASH[number + 1 == len(numbers)] for number in range(len(numbers))]
    is_known = numbers == list(range(0, 2 * len(numbers), 2)) and (not state.layers or layers[1::2] == wanted)
    is_known &= all(weight.dim() == 4 and weight.shape[2:] == (1, 1) for weight, _ in weights)
    if not weights or not is_known:
        found = [str(layer).rpartition(".")[2] for layer in layers] if state.layers else sorted(tensors)
        raise CheckpointError(
            f"{state.path}: must have add-on layers of 1x1 convolutions with ReLUs between and a sigmoid at the end; "
            f"got {', '.join(found) or 'none'}. Use protokern.interop.accelerate, or protokern.nn.PrototypeLayer."
        )
    return AddOn(_kind_of(weights), weights)


def _kind_of(weights: list[tuple[Tensor, Tensor | None]]) -> str:
    if len(weights) == 1:
        return "single" if weights[0][1] is not None else "single_no_bias"
    (first, _), (second, _) = weights[:2]
    return "regular" if len(weights) == 2 and first.shape[0] == second.shape[0] == second.shape[1] else "bottleneck"


def squared_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """Distances (B, P, H', W') of features (B, D, H, W) and prototypes (P, D, h, w), by differences."""
    height, width = prototypes.shape[2:]
    windows = features.unfold(2, height, 1).unfold(3, width, 1)  # (B, D, H', W', h, w)
    differences = windows[:, None] - prototypes[:, :, None, None].to(features)
    return differences.square().sum((2, 5, 6))


def log_similarity(distances: Tensor, epsilon: float) -> Tensor:
    """log((d + 1) / (d + epsilon))."""
    return torch.log((distances + 1) / (distances + epsilon))


def as_prototypes(vectors: Tensor) -> Tensor:
    """Prototypes (P, D, h, w) as protokern holds them: (P, D) if they are single patches."""
    return vectors.flatten(1) if vectors.shape[2:] == (1, 1) else vectors


def check_prototypes(state: NetworkState, name: str) -> Tensor:
    """The prototypes (P, D, h, w) of that name.

    Raises:
        CheckpointError: they are missing or of another shape.
    """
    vectors = state.get(name)
    if vectors.dim() != 4 or 0 in vectors.shape:
        raise CheckpointError(f"{state.path}: {name} must be (P, D, h, w); got {tuple(vectors.shape)}.")
    return vectors
