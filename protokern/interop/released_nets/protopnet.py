"""ProtoPNet: the class PPNet of the released program, as a state dict or as a whole module, pruned or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState

from .converted import (
    Converted,
    Source,
    System,
    as_prototypes,
    check_prototypes,
    log_similarity,
    read_add_on,
    squared_distances,
)

_ALIKE = 0.9  # share of the columns of the last layer that must be largest at the inferred class
PRUNED = "prune_info.npy"


def recognises(source: Source) -> bool:
    """Whether a file has the tensors of a PPNet. TesNet has the same; its importer is asked first."""
    tensors = source.state.tensors
    return "prototype_vectors" in tensors and "last_layer.weight" in tensors and "proto_presence" not in tensors


def convert(source: Source) -> Converted:
    """The network as a ProtoPNet.

    Raises:
        CheckpointError: parts are missing or of another form, or it is unknown which prototype belongs to which class.
    """
    state = source.state
    vectors = check_prototypes(state, "prototype_vectors")
    weight = check_last_layer(state, vectors)
    add_on = read_add_on(state, "add_on_layers.")
    identity, note = find_identity(state, source.folder, weight)
    activation, epsilon, guessed = similarity_of(state)
    num_prototypes, num_classes = identity.shape

    def plain(maps: Tensor) -> Tensor:
        distances = squared_distances(add_on(maps), vectors).amin((2, 3))
        similarity = log_similarity(distances, epsilon) if activation == "log" else -distances
        return F.linear(similarity, weight.to(similarity))

    return Converted(
        settings={
            "name": "protopnet",
            "prototype_dim": vectors.shape[1],
            "prototype_size": tuple(vectors.shape[2:]),
            "add_on_layers": add_on.kind,
            "activation": activation,
            "epsilon": epsilon,
            "prototypes_per_class": -(-num_prototypes // num_classes),
        },
        num_classes=num_classes,
        backbone=state.below("features."),
        head={
            **add_on.named(),
            "prototype_layer.prototypes": as_prototypes(vectors),
            "class_identity": identity,
            "last_layer.weight": weight,
        },
        plain=plain,
        notes=(*_doubt(source), *note, *guessed, *check_dropped(state)),
        image_size=image_size_of(state),
    )


def _doubt(source: Source) -> tuple[str, ...]:
    if source.state.layers or source.system is not None:
        return ()
    return ("inferred: ProtoPNet; the state dict of a TesNet looks the same, and then needs --system tesnet",)


def check_last_layer(state: NetworkState, vectors: Tensor) -> Tensor:
    """The weights (K, P) of the last layer."""
    weight = state.get("last_layer.weight")
    if weight.dim() != 2 or weight.shape[1] != len(vectors) or "last_layer.bias" in state.tensors:
        raise CheckpointError(
            f"{state.path}: last_layer must have weights (K, {len(vectors)}) and no bias; got {tuple(weight.shape)}."
        )
    return weight


def image_size_of(state: NetworkState) -> int | None:
    """The side of the images, which only whole modules say."""
    size = state.settings.get("img_size")
    return size if isinstance(size, int) and size > 0 else None


def similarity_of(state: NetworkState) -> tuple[str, float, tuple[str, ...]]:
    """Name of the activation, epsilon, and a note if they were inferred.

    Raises:
        CheckpointError: it is a function.
    """
    if not state.layers:
        return "log", 1e-4, ('inferred: the activation "log" with epsilon 1e-4, which a state dict does not say',)
    activation, epsilon = state.settings.get("prototype_activation_function"), state.settings.get("epsilon", 1e-4)
    if activation not in ("log", "linear"):
        raise CheckpointError(
            f"{state.path}: prototype_activation_function must be 'log' or 'linear'; got a function of the program. "
            "Use protokern.interop.accelerate, which calls it."
        )
    return str(activation), float(epsilon), ()


def check_dropped(state: NetworkState) -> tuple[str, ...]:
    """A note on the tensors that are left out.

    Raises:
        CheckpointError: the constant `ones` of the program is not all 1, so that its distances are others.
    """
    ones = state.tensors.get("ones")
    if ones is None:
        return ()
    if not bool((ones == 1).all()):
        raise CheckpointError(f"{state.path}: ones must be all 1, or the distances are weighted; it is not.")
    return ("dropped: ones, a constant of the released program",)


def find_identity(state: NetworkState, folder: Path, weight: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Which prototype belongs to which class, (P, K), and a note if it was inferred.

    Raises:
        CheckpointError: it is unknown.
    """
    num_classes, num_prototypes = weight.shape
    given = state.settings.get("prototype_class_identity")
    if isinstance(given, Tensor):
        if given.shape != (num_prototypes, num_classes):
            raise CheckpointError(
                f"{state.path}: prototype_class_identity must be ({num_prototypes}, {num_classes}), as the last layer; "
                f"got {tuple(given.shape)}."
            )
        return given.float(), ()
    removed = _read_removed(folder / PRUNED) if (folder / PRUNED).is_file() else None
    if removed is not None and (num_prototypes + len(removed)) % num_classes == 0:
        total = num_prototypes + len(removed)
        kept = [number for number in range(total) if number not in removed]
        own = torch.tensor(kept) // (total // num_classes)
        if len(kept) == num_prototypes and _fits(own, weight):
            return F.one_hot(own, num_classes).float(), (
                f"inferred: the classes of the {num_prototypes} prototypes that pruning left, from {PRUNED}",
            )
    if num_prototypes % num_classes == 0:
        own = torch.arange(num_prototypes) // (num_prototypes // num_classes)
        if _fits(own, weight):
            each = num_prototypes // num_classes
            return F.one_hot(own, num_classes).float(), (
                f"inferred: the classes of the prototypes, {each} for each class in turn, as the last layer has them",
            )
    raise CheckpointError(
        f"{state.path}: must say which of the {num_prototypes} prototypes belongs to which of the {num_classes} "
        f"classes; a state dict of a pruned net does not. Give the file of the whole module, or put {PRUNED} beside it."
    )


def _fits(own: Tensor, weight: Tensor) -> bool:
    """Whether the last layer weighs nearly every prototype most for its class."""
    return float((weight.argmax(dim=0) == own).float().mean()) >= _ALIKE


def _read_removed(path: Path) -> set[int]:
    """The prototypes that pruning removed; the rows of the file are (prototype, class)."""
    try:
        rows = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: must be an array of numbers ({error}). Take it away, or restore it.") from error
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise CheckpointError(f"{path}: must have rows (prototype, class); got the shape {rows.shape}.")
    return {int(number) for number in rows[:, 0]}


ROW = System("protopnet", "ProtoPNet", recognises, convert)
