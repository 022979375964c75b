"""Recognises networks of the released programs and gives them the fused ops.

Recognition is by attributes and answers; nothing of the programs is imported. docs/interop.md says what stays the same
and what differs.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from protokern.kernels.backends import check_names

from .accelerated import PROGRAMS, Accelerated, Program, Trial, accelerated_class, at_address, program_of

Network = TypeVar("Network", bound=nn.Module)


def accelerate(model: Network, *, precision: str | None = None, backend: str = "auto") -> Network:
    """Let a network of a released program compute its distances or similarities with the fused ops.

    The network is changed in place. It keeps its parameters, the keys of its state dict, and the results and gradients
    of its methods, except that they are exact where the program rounds: at a copy of a patch, a distance is 0 and a
    cosine 1. It can be moved, trained, pruned, copied, saved and wrapped in `DataParallel` as before. `forward` no
    longer allocates B x P x H x W, unless it returns such a tensor. Accelerating twice changes the options and nothing
    else.

    Args:
        model: a network of ProtoPNet, or of a program that uses its class, of ProtoPool, TesNet, EvalProtoPNet,
            ProtoTree, ST-ProtoPNet, ProtoPFormer or ProtoViT; on a real device.
        precision: how the nearest patch is searched, see `protokern.min_distance`.
        backend: see `protokern.min_distance`.

    Returns:
        `model`.

    Raises:
        ValueError: the network lacks an attribute of the released programs, or computes something else; or an option is
            unknown.

    Source: the files of protokern/interop/accelerated name the classes.
    """
    check_names(backend, precision)
    network: Any = model
    if not isinstance(network, Accelerated):
        program = _recognise(network)
        made = accelerated_class(type(network), program.mixin)
        with torch.no_grad():
            trial = Trial(network, made, at_address(network, program.prototypes[0]))
            network.protokern_similarity = program.mixin.protokern_compare(trial)
        network.__class__ = made
    network.protokern_precision, network.protokern_backend = precision, backend
    return model


def _recognise(model: Any) -> Program:
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"model: must be accelerated before it is compiled; got {type(model).__name__}. Accelerate the network, "
            "then compile it."
        )
    program = program_of(model)
    wanted = (*program.attributes, *program.prototypes)
    missing = [name for name in dict.fromkeys(wanted) if at_address(model, name) is None]
    if missing:
        known = ", ".join(row.name for row in reversed(PROGRAMS))
        wrapped = " Give the network inside, model.module." if isinstance(model, nn.DataParallel) else ""
        raise ValueError(
            f"model: must be a network of a released program ({known}); got {type(model).__name__}, "
            f"which lacks these attributes of {program.name}: {', '.join(missing)}.{wrapped}"
        )
    for address in program.prototypes:
        vectors = at_address(model, address)
        if not isinstance(vectors, Tensor) or vectors.dim() != program.shape.count(",") + 1 or vectors.is_meta:
            is_tensor = isinstance(vectors, Tensor)
            got = f"{tuple(vectors.shape)} on {vectors.device}" if is_tensor else type(vectors).__name__
            raise ValueError(f"model.{address}: must be a tensor ({program.shape}) with values; got {got}.")
    return program
