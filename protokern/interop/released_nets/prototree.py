"""ProtoTree: the released program's whole tree, or its state dict with the file that says which branch has which
prototype.

That map is in no state dict: the program numbers the branches by the order of a set, which differs between processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState, read_network
from protokern.interop.stand_ins import Inert
from protokern.interop.torch_files import read_plain_pickle

from .converted import (
    MOST_ENTRIES,
    AddOn,
    Converted,
    Source,
    System,
    as_prototypes,
    check_prototypes,
    read_add_on,
    squared_distances,
)

_ROOT, _LEAF = "_root.", "._dist_params"
_VECTORS = "prototype_layer.prototype_vectors"
_OFFSET = 1e-14  # under the root of a distance
MODULE, TREE = "model.pth", "tree.pkl"
MOST_LEVELS = 16


def recognises(source: Source) -> bool:
    """Whether a file has the tensors of a ProtoTree."""
    tensors = source.state.tensors
    return _VECTORS in tensors and any(name.startswith(_ROOT) and name.endswith(_LEAF) for name in tensors)


def convert(source: Source) -> Converted:
    """The network as a ProtoTree.

    Raises:
        CheckpointError: parts are missing or of another form, or it is unknown which branch has which prototype.
    """
    state = source.state
    leaves = {
        tuple(name.removeprefix(_ROOT).removesuffix(_LEAF).split(".")): value.flatten()
        for name, value in state.tensors.items()
        if name.startswith(_ROOT) and name.endswith(_LEAF)
    }
    rows, note = _find_rows(source)
    if state.settings.get("_kontschieder_normalization") is True:
        leaves = {path: (value / value.sum()).clamp_min(1e-30).log() for path, value in leaves.items()}
    return tree(
        state,
        leaves=leaves,
        rows=rows,
        vectors=check_prototypes(state, _VECTORS),
        add_on=read_add_on(state, "_add_on."),
        place="_net.",
        notes=(note,),
    )


def tree(
    state: NetworkState,
    *,
    leaves: Mapping[tuple[str, ...], Tensor],
    rows: Mapping[tuple[str, ...], int],
    vectors: Tensor,
    add_on: AddOn,
    place: str,
    notes: tuple[str, ...],
) -> Converted:
    """A tree by its leaves and branches.

    Args:
        state: of the file.
        leaves: logits (K,) by path; a step of a path is "l" (absent) or "r" (present).
        rows: the row of the prototype by the path to its branch; those of branches that were pruned are left out.
        vectors: (P, D, h, w).
        add_on: before the prototypes.
        place: of the backbone in the network.
        notes: for the message.
    """
    paths = sorted(leaves)
    branches = sorted({path[:level] for path in paths for level in range(len(path))})
    _check_tree(state, paths, branches, rows, len(vectors))
    kept = sorted({rows[branch] for branch in branches})
    if len(paths) * len(kept) > MOST_ENTRIES or len({value.shape for value in leaves.values()}) > 1:
        raise CheckpointError(f"{state.path}: must have fewer leaves, all of the same classes; got {len(paths)}.")
    logits = torch.stack([leaves[one] for one in paths]).float()  # (L, K)
    chosen = vectors[kept]

    def plain(maps: Tensor) -> Tensor:
        distances = squared_distances(add_on(maps), vectors).amin((2, 3))
        present = (-(distances.abs() + _OFFSET).sqrt()).exp()  # (B, P)
        return _mix((), leaves, rows, present).log()

    dropped = len(vectors) - len(kept)
    told = (f"dropped: {dropped} prototypes of branches that were pruned",) if dropped else ()
    return Converted(
        settings={
            "name": "prototree",
            "prototype_dim": vectors.shape[1],
            "prototype_size": tuple(vectors.shape[2:]),
            "add_on_layers": add_on.kind,
            "depth": max(map(len, paths)),
        },
        num_classes=logits.shape[1],
        backbone=state.below(place),
        place=place,
        head={
            **add_on.named(),
            "prototype_layer.prototypes": as_prototypes(chosen),
            "last_layer.path": _as_matrix(paths, rows, kept),
            "last_layer.leaf_logits": logits,
            "last_layer.at_start": logits.clone(),
            "last_layer.batches": torch.ones((), dtype=torch.int64),
        },
        plain=plain,
        notes=(*notes, *told),
        kept=tuple(kept) if dropped else None,
    )


def _as_matrix(paths: list[tuple[str, ...]], rows: Mapping[tuple[str, ...], int], kept: list[int]) -> Tensor:
    """(L, P) int8: 1 where the way to a leaf asks for the presence of a prototype, -1 for its absence, else 0."""
    path = torch.zeros(len(paths), len(kept), dtype=torch.int8)
    column = {row: number for number, row in enumerate(kept)}
    for number, steps in enumerate(paths):
        for level, step in enumerate(steps):
            path[number, column[rows[steps[:level]]]] = 1 if step == "r" else -1
    return path


def _mix(
    place: tuple[str, ...],
    leaves: Mapping[tuple[str, ...], Tensor],
    rows: Mapping[tuple[str, ...], int],
    present: Tensor,
) -> Tensor:
    """The probabilities (B, K) below a place of the tree."""
    if place in leaves:
        return leaves[place].to(present).softmax(0)[None]
    p = present[:, rows[place], None]
    return p * _mix((*place, "r"), leaves, rows, present) + (1 - p) * _mix((*place, "l"), leaves, rows, present)


def _check_tree(
    state: NetworkState,
    paths: list[tuple[str, ...]],
    branches: list[tuple[str, ...]],
    rows: Mapping[tuple[str, ...], int],
    count: int,
) -> None:
    """Raise a CheckpointError unless leaves and branches make a binary tree whose branches have prototypes."""
    places = {*paths, *branches}
    is_tree = all((*branch, step) in places for branch in branches for step in "lr") and () in branches
    is_tree &= all(set(path) <= {"l", "r"} and len(path) <= MOST_LEVELS for path in paths)
    if not is_tree or {*paths} & {*branches}:
        raise CheckpointError(
            f"{state.path}: must have the leaves of a binary tree of at most {MOST_LEVELS} levels; some are missing."
        )
    for branch in branches:
        if not 0 <= rows.get(branch, -1) < count:
            raise CheckpointError(
                f"{state.path}: every branch must have one of the {count} prototypes; the branch "
                f"{'.'.join(branch) or 'at the root'} has {rows.get(branch, 'none')}."
            )
    if len({rows[branch] for branch in branches}) < len(branches):
        raise CheckpointError(f"{state.path}: every branch must have a prototype of its own; some share one.")


def _find_rows(source: Source) -> tuple[dict[tuple[str, ...], int], str]:
    """The row of the prototype by the path to its branch, and where that was found."""
    if source.tree_map is not None:
        given = {tuple(path.split(".")) if path else (): row for path, row in source.tree_map.items()}
        return given, "the prototypes of the branches are as the given map says"
    if source.state.module is not None:
        return _rows_of(source.state, source.state.module), "the prototypes of the branches are as the file says"
    for name in (MODULE, TREE):
        path = source.folder / name
        if path.is_file():
            whole = read_network(path).module if name == MODULE else read_plain_pickle(path)
            if isinstance(whole, Inert):
                return _rows_of(source.state, whole), f"the prototypes of the branches are as {name} says"
    raise CheckpointError(
        f"{source.state.path}: must say which branch has which prototype, and a state dict does not. Put {MODULE} or "
        f"{TREE} of the same tree beside it, or give --tree-map."
    )


def _rows_of(state: NetworkState, module: Inert) -> dict[tuple[str, ...], int]:
    """The map of a whole tree, whose keys are the branches themselves."""
    table = module.state.get("_out_map")
    root = _child(module, "_root")
    if not isinstance(table, dict) or root is None:
        raise CheckpointError(f"{state.path}: must be a tree with _root and _out_map; they are missing.")
    rows: dict[tuple[str, ...], int] = {}
    waiting: list[tuple[tuple[str, ...], Inert]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        row = table.get(node)
        if type(row) is int:
            rows[path] = row
        for step in "lr":
            below = _child(node, step)
            if below is not None and len(path) < MOST_LEVELS:
                waiting.append(((*path, step), below))
    return rows


def _child(module: Inert, name: str) -> Inert | None:
    modules: Any = module.state.get("_modules")
    found = modules.get(name) if isinstance(modules, dict) else None
    return found if isinstance(found, Inert) else None


ROW = System("prototree", "ProtoTree", recognises, convert)
