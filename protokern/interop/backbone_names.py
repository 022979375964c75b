"""Which of protokern's backbones a released network has, and its tensors by that backbone's names."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.backbones.names import TORCHVISION, is_backbone, torchvision_name
from protokern.errors import CheckpointError, import_optional

from .module_state import NetworkState
from .released_nets import Converted

# Names of the released programs for nets whose strides or sizes they changed.
_PROGRAMS_NAMES = {
    "convnext_tiny_26": "convnext_tiny-stride8",
    "convnext_tiny_13": "convnext_tiny-stride16",
    "resnet50_inat": None,  # in two sizes, which the tensors tell apart
}
_CLASSIFIER = re.compile(r"(^|\.)(fc|classifier|heads)\.")
_COUNTER = "num_batches_tracked"
_OTHERS = ("tiny", "convnext_tiny", "efficientnet_b0", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_DENSENETS: dict[tuple[int, ...], str] = {
    (32, 64, 6, 12, 24, 16): "densenet121",
    (48, 96, 6, 12, 36, 24): "densenet161",
    (32, 64, 6, 12, 32, 32): "densenet169",
    (32, 64, 6, 12, 48, 32): "densenet201",
}
_RESNETS = {
    ("basic", 2, 2, 2, 2): "resnet18",
    ("basic", 3, 4, 6, 3): "resnet34",
    ("bottleneck", 3, 4, 6, 3): "resnet50",
    ("bottleneck", 3, 4, 23, 3): "resnet101",
    ("bottleneck", 3, 8, 36, 3): "resnet152",
}
_VGGS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


def settle_backbone(
    state: NetworkState, converted: Converted, name: str | None
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """The name of the backbone, its tensors by the names in its body, and what was inferred or dropped.

    Args:
        state: the network of the file. Of a whole module the kernels and strides of the layers are compared too.
        converted: what its importer says of the backbone.
        name: a name of protokern's or of a released program; None: found by names and shapes.

    Raises:
        CheckpointError: there is no such backbone, or the tensors or the layers are not those of it.
    """
    path, tensors = state.path, converted.backbone
    known = {_as_torchvision(key): value for key, value in tensors.items() if not _CLASSIFIER.search(key)}
    notes = [] if len(known) == len(tensors) else ["dropped: the classifier of the backbone"]
    given = _PROGRAMS_NAMES.get(name, name) if name is not None else None
    if given is not None and not is_backbone(given):
        raise CheckpointError(
            f"--backbone: must be a name that protokern knows; got {name!r}. Leave it out, to find it by the tensors."
        )
    told = converted.backbone_name if converted.backbone_name in TORCHVISION else None
    found = given or told or _find(known)
    if found is None:
        raise CheckpointError(
            f"{path}: must have a backbone that protokern knows; got {len(known)} tensors of another one, such as "
            f"{', '.join(sorted(known)[:2])[:100]}. Give --backbone NAME, or use protokern.interop.accelerate."
        )
    parts = torchvision_name(found)
    if converted.without_relu and parts is not None and parts.base.startswith("densenet"):
        raise CheckpointError(
            f"{path}: must take the map of a DenseNet after its last ReLU, as protokern does; it takes it before."
        )
    if converted.stride is not None and parts is not None and parts.stride is None:
        found = f"{found}-stride{converted.stride}"
    if given is None and told is None:
        unsaid = "" if state.layers or "-" not in found else "; a state dict does not say strides: those of that class"
        notes.append(f"inferred: the backbone {found}, from the names and shapes of its tensors{unsaid}")
    body = _body(found, converted.settings.get("backbone_stage"))
    prefix, inside = _by_names_of(path, known, found, body)
    _check_layers(state, f"{converted.place}{prefix}", found, body)
    return found, inside, tuple(notes)


def _check_layers(state: NetworkState, place: str, name: str, body: nn.Module) -> None:
    """Raise a CheckpointError if the module of the file has a layer with another kernel, stride or padding."""
    for layer, module in body.named_modules():
        if not isinstance(module, nn.Conv2d | nn.MaxPool2d):
            continue
        for setting in ("kernel_size", "stride", "padding", "dilation"):
            theirs, ours = state.settings.get(f"{place}{layer}.{setting}"), getattr(module, setting)
            if theirs is not None and _pair(theirs) != _pair(ours):
                raise CheckpointError(
                    f"{state.path}: must have the layers of backbone {name!r}; {place}{layer} has {setting} "
                    f"{_pair(theirs)} instead of {_pair(ours)}. Give another --backbone, such as {name}-stride8."
                )


def _pair(value: object) -> tuple[object, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple) else (value,)


def _as_torchvision(key: str) -> str:
    """DenseNet's layers as torchvision names them today."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)


def _by_names_of(path: Path, tensors: dict[str, Tensor], name: str, body: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """The prefix by which the program's names differ from those of the backbone's body, and the tensors without it."""
    shapes = _shapes(body)
    wrong = sorted(shapes)
    for prefix in _prefixes(tensors, next(iter(shapes))):
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        here = {key for key in inside.keys() | shapes.keys() if not key.endswith(_COUNTER)}
        differing = sorted(key for key in here if shapes.get(key) != _shape(inside.get(key)))
        outside = sorted(key for key in tensors if not key.startswith(prefix))
        if not differing and not outside:
            return prefix, inside
        wrong = min(wrong, [*differing, *outside], key=len)
    raise CheckpointError(
        f"{path}: must have the tensors of backbone {name!r}; {len(wrong)} are missing, unknown or of another shape "
        f"(the first: {wrong[0]!r}). Give the right --backbone, or leave it out."
    )


def _prefixes(tensors: dict[str, Tensor], first: str) -> list[str]:
    """What stands before the name of the backbone's first tensor."""
    return [key.removesuffix(first) for key in tensors if key == first or key.endswith(f".{first}")]


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _body(name: str, stage: int | None = None) -> nn.Module:
    """The net of a backbone without numbers, up to a stage."""
    with torch.device("meta"):
        return build_backbone(name, weights="none", stage=stage).body


def _shapes(body: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in body.state_dict().items()}


def _find(tensors: dict[str, Tensor]) -> str | None:
    """The name of the backbone that has these tensors, if there is one."""
    found = _find_resnet(tensors) or _find_densenet(tensors) or _find_vgg(tensors)
    if found is not None:
        return found
    for name in _OTHERS:
        shapes = _shapes(_body(name))
        first = next(iter(shapes))
        for prefix in _prefixes(tensors, first):
            inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if all(_shape(inside.get(key)) == shape for key, shape in shapes.items() if not key.endswith(_COUNTER)):
                return name
    return None


def _find_resnet(tensors: dict[str, Tensor]) -> str | None:
    blocks = {
        found.groups() for key in tensors if (found := re.search(r"(?:^|\.)layer([1-4])\.(\d+)\.conv1\.weight", key))
    }
    counts = tuple(sum(layer == str(stage) for layer, _ in blocks) for stage in (1, 2, 3, 4))
    if 0 in counts:
        return None
    kind = "bottleneck" if any(key.endswith("layer1.0.conv3.weight") for key in tensors) else "basic"
    return _RESNETS.get((kind, *counts), f"resnet-{kind}-{'-'.join(map(str, counts))}")


def _find_densenet(tensors: dict[str, Tensor]) -> str | None:
    layers = {
        (int(found[1]), int(found[2]))
        for key in tensors
        if (found := re.search(r"denseblock(\d+)\.denselayer(\d+)\.", key))
    }
    first = next((value for key, value in tensors.items() if key.endswith("conv0.weight")), None)
    growth = next((value for key, value in tensors.items() if key.endswith("denselayer1.conv2.weight")), None)
    if not layers or first is None or growth is None:
        return None
    counts = tuple(sum(block == number for block, _ in layers) for number in range(1, max(layers)[0] + 1))
    sizes = (growth.shape[0], first.shape[0], *counts)
    return _DENSENETS.get(sizes, f"densenet-{'-'.join(map(str, sizes))}")


def _find_vgg(tensors: dict[str, Tensor]) -> str | None:
    """A VGG, whose convolutions have the only four-dimensional tensors, numbered as the layers between them ask."""
    numbered = {
        int(found[1]): value
        for key, value in tensors.items()
        if (found := re.fullmatch(r"(?:.*\.)?(\d+)\.weight", key))
    }
    convolutions = {number: value for number, value in numbered.items() if value.dim() == 4}
    if len(numbered) != len([key for key in tensors if key.endswith(".weight")]) or not convolutions:
        return None
    if any(value.shape[2:] != (3, 3) for value in convolutions.values()) or min(convolutions) != 0:
        return None
    has_norms = len(convolutions) < len(numbered)
    if not all(key.endswith((".weight", ".bias")) for key in tensors) and not has_norms:
        return None
    between = 3 if has_norms else 2  # layers of a convolution with its norm and its ReLU
    layers: list[int | str] = []
    order = sorted(convolutions)
    for number, following in zip(order, [*order[1:], None], strict=True):
        layers.append(convolutions[number].shape[0])
        if following is None or following - number == between + 1:
            layers.append("M")  # a VGG ends in a max-pool
        elif following - number != between:
            return None
    if any(f"{number}.bias" not in {key.rpartition("features.")[2] for key in tensors} for number in order):
        return None
    suffix = "_bn" if has_norms else ""
    for letter, name in _VGGS.items():
        if _published(letter) == layers:
            return f"{name}{suffix}"
    if not all(key.startswith("features.") for key in tensors):  # as in the programs' class; other nets have strides
        return None
    return f"vgg{suffix}-{'-'.join(map(str, layers))}"


def _published(letter: str) -> list[int | str]:
    models = import_optional(
        "torchvision.models", package="torchvision", needed_for="the backbones of torchvision", install="torchvision"
    )
    return list(models.vgg.cfgs[letter])
