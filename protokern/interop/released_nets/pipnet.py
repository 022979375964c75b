"""PIP-Net: the released program's checkpoints, with the names that DataParallel gives or without."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState

from .converted import AddOn, Converted, Source, System

_LEAST_PRESENCE = 0.1  # smaller ones count as none in the program's inference
_STRIDES = {"features.4.1": 8, "features.6.1": 16}  # of a ConvNeXt's map, by the first layer that no longer halves it


def recognises(source: Source) -> bool:
    """Whether a file has the tensors of a PIP-Net."""
    tensors = source.state.tensors
    return "_classification.weight" in tensors and any(name.startswith("_net.") for name in tensors)


def convert(source: Source) -> Converted:
    """The network as a PIP-Net.

    Raises:
        CheckpointError: parts are missing or of another form.
    """
    state = source.state
    backbone = state.below("_net.")
    add_on = AddOn("linear" if "_add_on.0.weight" in state.tensors else "")
    if add_on.kind:
        add_on.weights.append((state.get("_add_on.0.weight"), state.get("_add_on.0.bias")))
    stride, note = _stride_of(state, backbone)
    return sheet(
        state,
        weight=state.get("_classification.weight"),
        bias=state.tensors.get("_classification.bias"),
        power=state.get("_classification.normalization_multiplier"),
        add_on=add_on,
        place="_net.",
        stride=stride,
        notes=(*note, "dropped: _multiplier, which repeats the power of the scores"),
        least_presence=_LEAST_PRESENCE,
    )


def sheet(
    state: NetworkState,
    *,
    weight: Tensor,
    bias: Tensor | None,
    power: Tensor,
    add_on: AddOn,
    place: str,
    stride: int | None,
    notes: tuple[str, ...],
    least_presence: float,
) -> Converted:
    """A sheet of scores (K, P) over the largest shares of channels."""
    if weight.dim() != 2 or power.numel() != 1 or not bool(power.ge(1).all()):
        raise CheckpointError(
            f"{state.path}: must have a sheet (K, P) and one power of at least 1; got {tuple(weight.shape)} and "
            f"{power.flatten()[:3].tolist()}."
        )
    num_classes, num_prototypes = weight.shape
    exponent = float(power)

    def plain(maps: Tensor) -> Tensor:
        presence = add_on(maps).softmax(1).amax((2, 3))
        presence = torch.where(presence < least_presence, 0.0, presence)
        scores = F.linear(presence, weight.relu().to(presence), None if bias is None else bias.to(presence))
        return torch.log1p(scores**exponent)

    head = {
        **add_on.named(),
        "prototype_layer.channels": torch.arange(num_prototypes),
        "last_layer.weight": weight,
    }
    return Converted(
        settings={
            "name": "pipnet",
            "num_prototypes": num_prototypes if add_on.kind else 0,
            "bias": bias is not None,
            "power": exponent,
            "smallest_presence": least_presence,
        },
        num_classes=num_classes,
        backbone=state.below(place),
        place=place,
        head=head if bias is None else {**head, "last_layer.bias": bias},
        plain=plain,
        notes=notes,
        stride=stride,
    )


def _stride_of(state: NetworkState, backbone: dict[str, Tensor]) -> tuple[int | None, tuple[str, ...]]:
    """The stride at which the program ends its net: ResNets at 8, ConvNeXt at 8 (26 x 26 cells) or 16 (13 x 13)."""
    if "layer4.0.conv1.weight" in backbone:
        return 8, ()
    if "features.6.1.weight" not in backbone:
        return None, ()
    if state.layers:
        found = (stride for layer, stride in _STRIDES.items() if state.settings.get(f"_net.{layer}.stride") == (1, 1))
        return next(found, None), ()
    return 8, (
        "inferred: convnext_tiny_26, with 26 x 26 cells at 224 pixels, since a state dict does not say the strides; "
        "for 13 x 13 give --backbone convnext_tiny_13",
    )


ROW = System("pipnet", "PIP-Net", recognises, convert)
