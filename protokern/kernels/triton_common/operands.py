"""Launch of the pass that makes operands, and which kind of operand a search takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..metric import METRIC_TABLE
from .availability import is_interpreted
from .device import cells_of
from .launch import launcher
from .limits import DeviceLimits
from .prep import prep_kernel

ROWS_PER_PROGRAM = 32
CHANNELS_PER_STEP = 64
_launch = launcher(prep_kernel)


@dataclass(frozen=True, slots=True)
class OperandKind:
    """How a search stores the factors of its products.

    Attributes:
        dtype: type in memory.
        dropped_bits: low bits of the float32 significand rounded away: 16 for bfloat16, 13 for TF32, 0 for none.
        split: two factors, the rounded value and the rounded rest, for three products.
        exact: the products are those of the inputs; there is nothing to centre for.
        input_precision: what `tl.dot` is told.
    """

    dtype: torch.dtype
    dropped_bits: int
    split: bool
    exact: bool
    input_precision: str


class Operands(NamedTuple):
    """Vectors ready for a search.

    Attributes:
        high: (rows, pitch), the vectors, centred and rounded, zeros from D on.
        low: (rows, pitch), what rounding left, rounded; `high` again unless the kind is split.
        square: (rows,) float32, squared norm before rounding; NaN where a component is not finite.
        pitch: elements from one row to the next.
    """

    high: Tensor
    low: Tensor
    square: Tensor
    pitch: int


def operand_kind(limits: DeviceLimits, dtype: torch.dtype, precision: str, metric: str) -> tuple[str, OperandKind]:
    """Name and properties of the operands for inputs of `dtype`, searched in `precision`.

    Devices before sm_80 have neither TF32 nor bfloat16 products: they multiply in float32, which is more precise.
    The interpreter computes bfloat16 wrongly: it gets the rounded numbers as float32, whose products are the same.
    """
    if limits.arch < 80:
        return "ieee", OperandKind(torch.float32, 0, split=False, exact=False, input_precision="ieee")
    if precision == "fp32":
        kind = OperandKind(torch.bfloat16, 16, split=True, exact=False, input_precision="ieee")
        name = "split"
    elif precision == "bf16":
        kind = OperandKind(torch.bfloat16, 16, split=False, exact=dtype == torch.bfloat16, input_precision="ieee")
        name = "bf16"
    elif dtype == torch.float16 and not METRIC_TABLE[metric].is_unit:
        kind = OperandKind(torch.float16, 0, split=False, exact=True, input_precision="ieee")
        name = "fp16"
    else:
        is_half = dtype in (torch.float16, torch.bfloat16)
        kind = OperandKind(torch.float32, 13, split=False, exact=is_half, input_precision="tf32")
        name = "tf32"
    if is_interpreted():
        kind = OperandKind(torch.float32, kind.dropped_bits, kind.split, kind.exact, "ieee")
    return name, kind


def full_precision(limits: DeviceLimits) -> OperandKind:
    """Operands whose products are as exact as float32 ones: for gradients, which nothing computes again.

    Three TF32 products, of factors rounded to TF32 and of the rests, made as the factors are read, are off by less than
    2^-20 of a product. The interpreter knows no TF32.
    """
    precision = "ieee" if limits.arch < 80 or is_interpreted() else "tf32x3"
    return OperandKind(torch.float32, 0, split=False, exact=False, input_precision=precision)


def prepare_operands(
    features: Tensor, prototypes: Tensor, kind: OperandKind, metric: str, channels: int, copies: bool = True
) -> tuple[Operands, Operands, Tensor]:
    """Operands of `features` (B H W rows) and `prototypes` (P h w rows), padded to a multiple of `channels`.

    Returns:
        Both operands, and the features: where `copies`, with the channels of a cell side by side, a copy only if they
        do not lie so already.
    """
    batch, depth, height, width = features.shape
    cells = cells_of(prototypes)
    x = _allocate(features, batch * height * width, kind, channels)
    p = _allocate(cells, cells[:, 0].numel(), kind, channels)
    rows_first = features
    if copies and features.stride(1) != 1 and depth > 1:
        rows_first = torch.empty_like(features, memory_format=torch.channels_last)
    is_scaled = METRIC_TABLE[metric].is_unit
    x_scale = _scale(features) if is_scaled else x.square
    p_scale = _scale(cells) if is_scaled else p.square
    x_programs = batch * triton.cdiv(height * width, ROWS_PER_PROGRAM)
    _launch_prep(features, x, x_scale, rows_first, cells, p, p_scale, None, x_programs, kind, metric)
    return x, p, rows_first


def prepare_prototypes(prototypes: Tensor, kind: OperandKind, metric: str, channels: int) -> tuple[Operands, Tensor]:
    """Operands of `prototypes` alone (P h w rows), for a metric that is centred, as `prepare_operands` makes them.

    Returns:
        The operands, and what is taken away from all vectors, (pitch,) float32 with zeros from D on; of no meaning
        unless `is_centred`.
    """
    cells = cells_of(prototypes)
    p = _allocate(cells, cells[:, 0].numel(), kind, channels)
    centre = torch.empty(p.pitch, dtype=torch.float32, device=cells.device)
    _launch_prep(cells, p, p.square, cells, cells, p, p.square, centre, 0, kind, metric)
    return p, centre


def _allocate(vectors: Tensor, rows: int, kind: OperandKind, channels: int) -> Operands:
    pitch = -(-vectors.shape[1] // channels) * channels
    high = torch.empty((rows, pitch), dtype=kind.dtype, device=vectors.device)
    low = torch.empty_like(high) if kind.split else high
    return Operands(high, low, torch.empty(rows, dtype=torch.float32, device=vectors.device), pitch)


def _launch_prep(
    features: Tensor, x: Operands, x_scale: Tensor, rows_first: Tensor,
    cells: Tensor, p: Operands, p_scale: Tensor, centre: Tensor | None,
    x_programs: int, kind: OperandKind, metric: str,
) -> None:  # fmt: skip
    _, depth, height, width = features.shape
    num_prototypes, _, kh, kw = cells.shape
    grid = (x_programs + kh * kw * triton.cdiv(num_prototypes, ROWS_PER_PROGRAM),)
    _launch(
        grid, x_ptr=features, x_scale=x_scale, x_high=x.high, x_low=x.low, x_copy=rows_first, x_square=x.square,
        p_ptr=cells, p_scale=p_scale, p_high=p.high, p_low=p.low, p_square=p.square,
        centre_ptr=p.square if centre is None else centre, x_programs=x_programs,
        num_cells=height * width, width=width, num_prototypes=num_prototypes, depth=depth, pitch=p.pitch,
        KW=kw, TAPS=kh * kw, DENSE=is_dense(features),
        SCALED=METRIC_TABLE[metric].is_unit, CENTRE=is_centred(kind, metric),
        DROPPED=kind.dropped_bits, SPLIT=kind.split, COPY=rows_first is not features, KEEP_CENTRE=centre is not None,
        ROWS=ROWS_PER_PROGRAM, WIDTH=CHANNELS_PER_STEP, num_warps=8 if centre is None else 4,
    )  # fmt: skip


def longest_patches(x: Operands, num_images: int, taps: int, metric: str) -> Tensor | None:
    """Bound (B,) of the lengths of the patches of `taps` cells of every image, for a metric that needs it.

    None where the distance of a patch and the length of the prototype bound the length of the patch. NaN for an image
    with a component that is not finite.
    """
    if not METRIC_TABLE[metric].is_product:
        return None
    return (x.square.view(num_images, -1).amax(1) * taps).sqrt()


def is_dense(features: Tensor) -> bool:
    """Whether a row of cells begins where the one before ends."""
    return features.stride(2) == features.shape[3] * features.stride(3) or features.shape[2] == 1


def is_centred(kind: OperandKind, metric: str) -> bool:
    """Whether a search by products takes one vector away from all: not where products are exact or of unit scale."""
    return METRIC_TABLE[metric].is_centred and not kind.exact


def _scale(vectors: Tensor) -> Tensor:
    """A power of two close to the largest component of each image or prototype, float32; 1 where there is none."""
    largest = torch.linalg.vector_norm(vectors, torch.inf, dim=(1, 2, 3), dtype=torch.float32)
    usable = largest.isfinite() & (largest > 0)
    exponent = torch.frexp(torch.where(usable, largest, 1)).exponent - 1
    # Written as bits: a power function may be off by a rounding, and half inputs are to stay exact.
    return ((exponent + 127).clamp(1, 254) << 23).view(torch.float32)
