"""The tiles that a search of the Triton kernels takes from its table, in words, for the rows of measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.ops.cases import Case

if TYPE_CHECKING:
    from protokern.kernels.triton_common.configs import Row

# The op of the table whose tiles an op takes.
TABLE_OPS = {
    "min_distance": "min_distance",
    "prototype_pool": "min_distance",
    "topk_pool": "topk_distance",
    "mean_activation": "mean_activation",
}


def tiles_of(op: str, case: Case, precision: str, isa: str) -> str:
    """Before they are made to fit the device and the problem; empty for what is no CUDA architecture."""
    if not isa.startswith("sm_"):
        return ""
    # Not above: other revisions, which are compared with this one, may lack it.
    from protokern.kernels.triton_common.configs import row_for

    arch = int(isa.removeprefix("sm_"))
    positions = case.height * case.width
    return in_words(row_for(TABLE_OPS[op], arch, torch.float32, precision, case.depth, positions, case.prototypes))


def in_words(row: Row) -> str:
    config = row.config
    path = f" {config.path}" if config.path else ""
    return (
        f"{config.block_p}x{config.block_n}x{config.block_d}, {config.warps} warps, {config.stages} stages, "
        f"{config.waves} waves{path}; {row.source}"
    )
