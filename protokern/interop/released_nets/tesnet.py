"""TesNet: the class TESNet of the released program. Its tensors have the names of ProtoPNet's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError

from . import protopnet
from .converted import Converted, Source, System, check_prototypes, read_add_on

_OF_UNIT_LENGTH = 1e-3  # how far a length may be from 1


def recognises(source: Source) -> bool:
    """Whether a file of ProtoPNet's tensors is of TesNet.

    A whole module says it by its class, a state dict by the name of its file or the lengths of the prototypes.
    """
    state = source.state
    if not protopnet.recognises(source):
        return False
    if state.layers:
        return "tesnet" in state.kind.lower()
    if _is_named(source):
        return True
    lengths = state.tensors["prototype_vectors"].float().flatten(1).norm(dim=1)
    return bool(((lengths - 1).abs() < _OF_UNIT_LENGTH).all())


def _is_named(source: Source) -> bool:
    return "tesnet" in source.state.path.name.lower()


def convert(source: Source) -> Converted:
    """The network as a TesNet.

    Raises:
        CheckpointError: as for ProtoPNet, or prototypes are larger than a patch.
    """
    state = source.state
    vectors = check_prototypes(state, "prototype_vectors")
    if vectors.shape[2:] != (1, 1):
        raise CheckpointError(
            f"{state.path}: a TesNet must have prototypes of one patch, since the program normalises cell by cell; got "
            f"{tuple(vectors.shape)}. Use protokern.nn.PrototypeLayer."
        )
    weight = protopnet.check_last_layer(state, vectors)
    add_on = read_add_on(state, "add_on_layers.")
    identity, note = protopnet.find_identity(state, source.folder, weight)
    num_prototypes, num_classes = identity.shape
    why = "its name" if _is_named(source) else "the length of all prototypes, which is 1"
    inferred = () if state.layers or source.system else (f"inferred: TesNet and not ProtoPNet, from {why}",)

    def plain(maps: Tensor) -> Tensor:
        features = add_on(maps)
        directions = F.normalize(vectors.to(features), dim=1)
        return F.linear(F.conv2d(features, directions).amax((2, 3)), weight.to(features))

    return Converted(
        settings={
            "name": "tesnet",
            "prototype_dim": vectors.shape[1],
            "add_on_layers": add_on.kind,
            "prototypes_per_class": -(-num_prototypes // num_classes),
        },
        num_classes=num_classes,
        backbone=state.below("features."),
        head={
            **add_on.named(),
            "prototype_layer.prototypes": F.normalize(vectors.flatten(1), dim=1),
            "class_identity": identity,
            "last_layer.weight": weight,
        },
        plain=plain,
        notes=(*inferred, *note, *protopnet.check_dropped(state)),
        image_size=protopnet.image_size_of(state),
    )


ROW = System("tesnet", "TesNet", recognises, convert)
