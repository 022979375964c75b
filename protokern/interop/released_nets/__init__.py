"""Networks of released programs in protokern's terms: one file and one row of `SYSTEMS` for each program."""

from __future__ import annotations

from protokern.errors import CheckpointError

from . import cabrnet, pipnet, protopnet, protopool, prototree, tesnet
from .converted import Converted, Source, System

# Asked in this order: those whose tensors have names of their own come first.
SYSTEMS: tuple[System, ...] = (cabrnet.ROW, prototree.ROW, pipnet.ROW, protopool.ROW, tesnet.ROW, protopnet.ROW)
# Programs that are known by their tensors, and whose models protokern does not have.
_UNSUPPORTED = {
    "prototype_vectors_trivial": "ST-ProtoPNet",
    "prototype_vectors_global": "ProtoPFormer",
    "prototype_means": "MGProto",
    "patch_select": "ProtoViT",
    "conv_offset.0.weight": "Deformable ProtoPNet",
    "activation_weight": "EvalProtoPNet",
}

__all__ = ["SYSTEMS", "Converted", "Source", "System", "find_system"]


def find_system(source: Source) -> System:
    """The system that a file is of.

    Raises:
        CheckpointError: it is of none, or of one that protokern has no model for.
    """
    tensors = source.state.tensors
    for name, title in _UNSUPPORTED.items():
        if name in tensors:
            raise CheckpointError(
                f"{source.state.path}: must be of a system that protokern has a model for: {_titles()}; got {title}."
            )
    if source.system is not None:
        return next(row for row in SYSTEMS if row.name == source.system)
    for row in SYSTEMS:
        if row.recognises(source):
            return row
    first = ", ".join(sorted(tensors)[:3])
    raise CheckpointError(
        f"{source.state.path}: must be a network of {_titles()}; got {len(tensors)} tensors of none of them, such as "
        f"{first[:120]}."
    )


def _titles() -> str:
    return ", ".join(row.title for row in SYSTEMS)
