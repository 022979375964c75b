"""Recognises networks of the released ProtoPNet, ProtoPool, TesNet and ProtoTree programs and gives them the fused ops.

Recognition is by attributes and answers; nothing of the programs is imported. docs/interop.md says what stays the same
and what differs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from protokern.kernels.backends import check_names
from protokern.kernels.similarity import activate

from .accelerated import Accelerated, AcceleratedProtoPNet, AcceleratedProtoPool, accelerated_class
from .accelerated_descendants import AcceleratedProtoTree, AcceleratedTesNet

Network = TypeVar("Network", bound=nn.Module)

_IN_ALL_BUT_TREES = (
    "features",
    "add_on_layers",
    "prototype_vectors",
    "ones",
    "last_layer",
    "prototype_shape",
    "num_prototypes",
    "num_classes",
    "epsilon",
    "prototype_activation_function",
    "conv_features",
    "prototype_distances",
    "distance_2_similarity",
)
_ATTRIBUTES: dict[type[Accelerated], tuple[str, ...]] = {
    AcceleratedProtoPNet: (*_IN_ALL_BUT_TREES, "_l2_convolution", "prototype_class_identity", "push_forward"),
    AcceleratedProtoPool: (
        *(*_IN_ALL_BUT_TREES, "_l2_convolution"),
        *("proto_presence", "num_descriptive", "use_last_layer", "_mix_l2_convolution"),
    ),
    AcceleratedTesNet: (
        *(*_IN_ALL_BUT_TREES, "prototype_class_identity", "push_forward"),
        *("_project2basis", "_cosine_convolution"),
    ),
    AcceleratedProtoTree: (
        *("_net", "_add_on", "prototype_layer", "_root", "_out_map", "_log_probabilities", "num_prototypes"),
        *("nodes", "branches", "leaves", "forward_partial"),
    ),
}
# What only the networks of one program have; ProtoPool has nearly all that ProtoPNet has, too.
_MARKS: dict[str, type[Accelerated]] = {
    "proto_presence": AcceleratedProtoPool,
    "_out_map": AcceleratedProtoTree,
    "_project2basis": AcceleratedTesNet,
}
_PROGRAMS = "ProtoPNet, ProtoPool, TesNet or ProtoTree"
# Relative to the squared norms that the programs add up. Their convolutions may round to ten bits (TF32) or eight
# (bfloat16); another formula, such as a square root, is off by far more.
_TOLERANCE = 0.03


def accelerate(model: Network, *, precision: str | None = None, backend: str = "auto") -> Network:
    """Let a network of a released program compute its distances with the fused ops.

    The network is changed in place. It keeps its parameters, the keys of its state dict, and the results and gradients
    of `forward`, `push_forward`, `prototype_distances` and `forward_partial`, except that distances are exact where the
    program rounds: 0 at a copy of a patch. It can be moved, trained, pruned, copied, saved and wrapped in
    `DataParallel` as before. `forward` no longer allocates B x P x H x W. Accelerating twice changes the options and
    nothing else.

    Args:
        model: `PPNet` of ProtoPNet, or of a program that uses it, `PrototypeChooser` of ProtoPool, `TESNet` of TesNet,
            or `ProtoTree` of ProtoTree; on a real device.
        precision: how the nearest patch is searched, see `protokern.min_distance`.
        backend: see `protokern.min_distance`.

    Returns:
        `model`.

    Raises:
        ValueError: the network lacks an attribute of the released programs, or computes something else; or an option is
            unknown.

    Source: the classes PPNet in github.com/cfchen-duke/ProtoPNet, model.py, PrototypeChooser in
    github.com/gmum/ProtoPool, model.py, TESNet in github.com/JackeyWang96/TesNet, model.py, and ProtoTree in
    github.com/M-Nauta/ProtoTree, prototree/prototree.py.
    """
    check_names(backend, precision)
    network: Any = model
    if not isinstance(network, Accelerated):
        mixin = _recognise(network)
        made = accelerated_class(type(network), mixin)
        network.protokern_similarity = _verify(network, made, mixin)
        network.__class__ = made
    network.protokern_precision, network.protokern_backend = precision, backend
    return model


def _recognise(model: Any) -> type[Accelerated]:
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"model: must be accelerated before it is compiled; got {type(model).__name__}. Accelerate the network, "
            "then compile it."
        )
    mixin = next((mixin for mark, mixin in _MARKS.items() if hasattr(model, mark)), AcceleratedProtoPNet)
    missing = [name for name in _ATTRIBUTES[mixin] if not hasattr(model, name)]
    if missing:
        program = mixin.__name__.removeprefix("Accelerated")
        wrapped = " Give the network inside, model.module." if isinstance(model, nn.DataParallel) else ""
        raise ValueError(
            f"model: must be a network of the released {_PROGRAMS} program; got {type(model).__name__}, "
            f"which lacks these attributes of {program}: {', '.join(missing)}.{wrapped}"
        )
    vectors = _vectors(model, mixin)
    if not isinstance(vectors, Tensor) or vectors.dim() != 4 or vectors.is_meta:
        got = f"{tuple(vectors.shape)} on {vectors.device}" if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"model.{mixin.vectors_at}: must be a tensor (P, D, h, w) with values; got {got}.")
    return mixin


def _vectors(model: Any, mixin: type[Accelerated]) -> Any:
    return attrgetter(mixin.vectors_at)(model)


@torch.no_grad()
def _verify(model: Any, made: type[nn.Module], mixin: type[Accelerated]) -> str:
    """Compare the network before and after, on small made-up features instead of its backbone's.

    Returns:
        Name of the similarity if the op computes the same one; otherwise "".

    Raises:
        ValueError: they differ, or the network cannot run.
    """
    vectors = _vectors(model, mixin)
    depth, height, width = vectors.shape[1:]
    shape = (2, depth, height + 3, width + 2)
    features = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(vectors)
    image = features.new_zeros(2, 3, 8, 8)
    # Copies share the parameters and leave the network itself untouched.
    before, after = copy.copy(model), copy.copy(model)
    after.__class__ = made
    after.protokern_precision, after.protokern_backend = None, "auto"
    for network in (before, after):
        mixin.protokern_feed(network, features)
    try:
        maps = mixin.protokern_maps(getattr(before, mixin.map_method)(image))
        outputs = mixin.protokern_tensors(before.forward(image))
    except Exception as error:
        raise ValueError(
            f"model: must run as in the released program; {type(model).__name__} raised {error!r}. {_ADVICE}"
        ) from error
    norms = features.square().sum(1).amax() * height * width + vectors.square().sum((1, 2, 3)).amax()
    tolerance = mixin.protokern_scale(float(norms)) * _TOLERANCE
    _compare(mixin.map_method, maps, mixin.protokern_maps(getattr(after, mixin.map_method)(image)), 0, tolerance)
    # The rest is the program's arithmetic on its distances, so only the roundings of its dtype may differ.
    rounding = 1e-3 if features.dtype in (torch.float64, torch.float32) else 5e-2
    _compare("forward", outputs, after.protokern_outputs(*maps), rounding, rounding)
    return _verified_similarity(before, maps[0], rounding) if mixin.has_similarity else ""


def _compare(method: str, got: Any, wanted: Sequence[Tensor], rtol: float, atol: float) -> None:
    """Raise if the network's answer is not that of the released program."""
    shapes = [tuple(tensor.shape) for tensor in wanted]
    if not isinstance(got, tuple) or [tuple(getattr(one, "shape", ())) for one in got] != shapes:
        outputs = got if isinstance(got, tuple) else (got,)
        what = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in outputs]
        raise ValueError(f"model.{method}: must return tensors of shapes {shapes} on a trial; got {what}. {_ADVICE}")
    for one, other in zip(got, wanted, strict=True):
        if not torch.allclose(one, other.to(one.dtype), rtol=rtol, atol=atol, equal_nan=True):
            largest = float((one - other).abs().max())
            raise ValueError(
                f"model.{method}: must return what the released program does; differs by up to {largest:.3g} on a "
                f"trial. {_ADVICE}"
            )


def _verified_similarity(model: Any, distances: Tensor, tolerance: float) -> str:
    name = model.prototype_activation_function
    if name not in ("log", "linear"):
        return ""
    ours = activate(distances.to(torch.float32), name, model.epsilon).to(distances.dtype)
    theirs = model.distance_2_similarity(distances)
    return name if torch.allclose(theirs, ours, rtol=tolerance, atol=tolerance) else ""


_ADVICE = "Put protokern.nn.PrototypeLayer into the network instead."
