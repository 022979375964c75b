"""ProtoPool: the class PrototypeChooser of the released program."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState

from . import protopnet
from .converted import (
    MOST_ENTRIES,
    AddOn,
    Converted,
    Source,
    System,
    as_prototypes,
    check_prototypes,
    log_similarity,
    read_add_on,
    squared_distances,
)

_HARD = 2  # the phase of a `SlotAssignment` whose choices are final


def recognises(source: Source) -> bool:
    """Whether a file has the tensors of a PrototypeChooser."""
    return "proto_presence" in source.state.tensors and "prototype_vectors" in source.state.tensors


def convert(source: Source) -> Converted:
    """The network as a ProtoPool with final choices.

    Raises:
        CheckpointError: parts are missing or of another form.
    """
    state = source.state
    vectors = check_prototypes(state, "prototype_vectors")
    add_on = read_add_on(state, "add_on_layers.")
    activation, epsilon, guessed = protopnet.similarity_of(state)
    if activation != "log":
        raise CheckpointError(
            f"{state.path}: prototype_activation_function must be 'log' in a ProtoPool; got {activation!r}, which is "
            "1 / (d + 1) there. Use protokern.interop.accelerate."
        )
    dropped = ("dropped: alfa, which the program never reads",) if "alfa" in state.tensors else ()
    return pool(
        source,
        vectors=vectors,
        presence=state.get("proto_presence"),
        weight=state.tensors.get("last_layer.weight"),
        add_on=add_on,
        epsilon=epsilon,
        place="features.",
        notes=(*guessed, *protopnet.check_dropped(state), *dropped),
    )


def pool(
    source: Source,
    *,
    vectors: Tensor,
    presence: Tensor,
    weight: Tensor | None,
    add_on: AddOn,
    epsilon: float,
    place: str,
    notes: tuple[str, ...],
) -> Converted:
    """A pool of prototypes whose slots hold the prototype of their largest entry in `presence` (K, P, S)."""
    state = source.state
    _check_shapes(state, vectors, presence, weight)
    num_classes, num_prototypes, num_slots = presence.shape
    own = torch.arange(num_classes).repeat_interleave(num_slots)
    slots = presence.argmax(dim=1)  # (K, S)
    slot_identity = F.one_hot(own, num_classes).float()
    weights = slot_identity.T if weight is None else weight

    def plain(maps: Tensor) -> Tensor:
        distances = squared_distances(add_on(maps), vectors)
        nearest, average = distances.amin((2, 3))[:, slots], distances.mean((2, 3))[:, slots]
        focal = log_similarity(nearest, epsilon) - log_similarity(average, epsilon)
        return F.linear(focal.flatten(1), weights.to(focal))

    head = {
        **add_on.named(),
        "prototype_layer.prototypes": as_prototypes(vectors),
        "assignment.presence_logits": presence,
        "assignment.slots": slots,
        "assignment._extra_state": torch.tensor(_HARD),
        "slot_identity": slot_identity,
    }
    return Converted(
        settings={
            "name": "protopool",
            "prototype_dim": vectors.shape[1],
            "prototype_size": tuple(vectors.shape[2:]),
            "add_on_layers": add_on.kind,
            "epsilon": epsilon,
            "num_prototypes": num_prototypes,
            "slots_per_class": num_slots,
            "last_layer": "sum" if weight is None else "linear",
        },
        num_classes=num_classes,
        backbone=state.below(place),
        place=place,
        head=head if weight is None else {**head, "last_layer.weight": weight},
        plain=plain,
        notes=(
            "inferred: every slot holds the prototype that it wants most, as in the program at its final scale",
            *_describe(vectors, slots),
            *notes,
        ),
        image_size=protopnet.image_size_of(state),
    )


def _check_shapes(state: NetworkState, vectors: Tensor, presence: Tensor, weight: Tensor | None) -> None:
    """Raise a CheckpointError unless prototypes, choices and last layer fit each other."""
    if presence.dim() == 3 and presence.shape[0] ** 2 * presence.shape[2] > MOST_ENTRIES:
        raise CheckpointError(f"{state.path}: must have fewer classes and slots; got choices {tuple(presence.shape)}.")
    if presence.dim() != 3 or presence.shape[1] != len(vectors):
        raise CheckpointError(
            f"{state.path}: the choices must be (K, {len(vectors)}, S), as the prototypes; got {tuple(presence.shape)}."
        )
    wanted = (presence.shape[0], presence.shape[0] * presence.shape[2])
    if weight is not None and weight.shape != wanted:
        raise CheckpointError(f"{state.path}: last_layer.weight must be {wanted}; got {tuple(weight.shape)}.")


def _describe(vectors: Tensor, slots: Tensor) -> list[str]:
    """Prototypes that were never pushed, and classes that hold one twice."""
    never = (vectors.flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
    told = [f"never pushed, so zero vectors: prototypes {', '.join(map(str, never))}"] if never else []
    repeated = sum(len(set(row)) < len(row) for row in slots.tolist())
    return [*told, f"{repeated} classes hold a prototype in several slots"] if repeated else told


ROW = System("protopool", "ProtoPool", recognises, convert)
