"""The released programs whose networks can be accelerated: a row for each, with what it is recognised by."""

from __future__ import annotations

from typing import Any, NamedTuple

from .base import Accelerated
from .evalprotopnet import AcceleratedEvalProtoPNet
from .protopformer import AcceleratedProtoPFormer
from .protopnet import AcceleratedProtoPNet
from .protopool import AcceleratedProtoPool
from .prototree import AcceleratedProtoTree
from .protovit import AcceleratedProtoViT
from .stprotopnet import AcceleratedCroppedSTProtoPNet, AcceleratedFullSTProtoPNet
from .tesnet import AcceleratedTesNet


class Program(NamedTuple):
    """A released program.

    Attributes:
        name: what messages call it.
        mixin: replaces the methods of its class, and compares them with those of a network.
        marks: attributes that tell it from the programs below.
        attributes: the others that its networks have.
        prototypes: where the prototypes are.
        shape: letters of their dimensions.
    """

    name: str
    mixin: type[Accelerated]
    marks: tuple[str, ...]
    attributes: tuple[str, ...]
    prototypes: tuple[str, ...] = ("prototype_vectors",)
    shape: str = "P, D, h, w"


_NET = ("features", "prototype_shape", "num_prototypes", "num_classes", "conv_features")
_SIMILARITY = ("epsilon", "prototype_activation_function", "distance_2_similarity")
_PROTOPNET = (*_NET, *_SIMILARITY, "add_on_layers", "ones", "last_layer", "_l2_convolution", "prototype_distances")
_UNIT = ("add_on_layers", "_cosine_convolution", "prototype_distances", "push_forward", "prototype_class_identity")
_TWO = tuple(f"{part}_{branch}" for branch in ("trivial", "support") for part in ("last_layer", "push_forward"))
_VECTORS_OF_TWO = ("prototype_vectors_trivial", "prototype_vectors_support")

# The first row whose marks a network has is its program; the last has none.
PROGRAMS = (
    Program(
        "ProtoTree",
        AcceleratedProtoTree,
        marks=("prototype_layer", "_out_map"),
        attributes=(
            *("_net", "_add_on", "_root", "_log_probabilities", "num_prototypes", "forward_partial"),
            *("nodes", "branches", "leaves", "prototype_layer.prototype_vectors"),
        ),
        prototypes=("prototype_layer.prototype_vectors",),
    ),
    Program(
        "ProtoViT",
        AcceleratedProtoViT,
        marks=("greedy_distance",),
        attributes=(*_NET, "prototype_vectors", "patch_select", "temp", "radius", "last_layer", "subpatch_dist"),
        shape="P, D, S",
    ),
    Program(
        "ProtoPFormer",
        AcceleratedProtoPFormer,
        marks=("get_activations",),
        attributes=(
            *(*_NET, *_SIMILARITY, "prototype_vectors", "use_global", "global_coe", "reserve_layer_nums"),
            *("last_layer", "last_layer_global", "_l2_convolution_single"),
        ),
    ),
    Program(
        "EvalProtoPNet",
        AcceleratedEvalProtoPNet,
        marks=("forward_SA_module",),
        attributes=(*(*_NET, *_UNIT, "prototype_vectors", "activation_weight", "shallow_layer_idx", "_project2basis"),),
    ),
    Program(
        "TesNet",
        AcceleratedTesNet,
        marks=("_project2basis",),
        attributes=(*_NET, *_UNIT, "prototype_vectors", "last_layer"),
    ),
    Program(
        "ST-ProtoPNet for cropped images",
        AcceleratedCroppedSTProtoPNet,
        marks=("_project2prototype",),
        attributes=(*_NET, *_VECTORS_OF_TWO, *_TWO, "_cosine_convolution", "prototype_similarities"),
        prototypes=_VECTORS_OF_TWO,
    ),
    Program(
        "ST-ProtoPNet for whole images",
        AcceleratedFullSTProtoPNet,
        marks=("prototype_vectors_trivial",),
        attributes=(*_NET, *_VECTORS_OF_TWO, *_TWO, "_cosine_convolution", "prototype_distances"),
        prototypes=_VECTORS_OF_TWO,
    ),
    Program(
        "ProtoPool",
        AcceleratedProtoPool,
        marks=("proto_presence",),
        attributes=(*_PROTOPNET, "prototype_vectors", "num_descriptive", "use_last_layer", "_mix_l2_convolution"),
    ),
    Program(
        "ProtoPNet",
        AcceleratedProtoPNet,
        marks=(),
        attributes=(*_PROTOPNET, "prototype_vectors", "prototype_class_identity", "push_forward"),
    ),
)


def program_of(network: Any) -> Program:
    """The program whose marks the network has; ProtoPNet if it has none."""
    return next(program for program in PROGRAMS if all(hasattr(network, mark) for mark in program.marks))


def at_address(network: Any, address: str) -> Any:
    """The attribute at a dotted address; None if there is none."""
    found = network
    for name in address.split("."):
        found = getattr(found, name, None)
    return found
