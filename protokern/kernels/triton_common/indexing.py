"""Where things are: which tile a program takes, and the cells of patches and prototypes in memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wide(number):
    """An int32, in a kernel or in the interpreter, as int64: products with strides may need it."""
    return tl.zeros([], tl.int64) + number


@triton.jit
def take_tile(program, size, BLOCK: tl.constexpr):
    """The tile (BLOCK,) of `size` things that a program's number stands for, and what is left of the number."""
    tiles = tl.cdiv(size, BLOCK)
    return (program % tiles) * BLOCK + tl.arange(0, BLOCK), program // tiles


@triton.jit
def take_split(num_prototypes, num_positions, num_splits, tiles_per_split, BP: tl.constexpr, BN: tl.constexpr):
    """What this program takes: prototypes (BP,), a split, an image (int64), the first and last position of the split.

    The last is not included. Programs that run together share an image.
    """
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    split = rest % num_splits
    begin = split * tiles_per_split * BN
    end = tl.minimum(begin + tiles_per_split * BN, num_positions)
    return prototype, split, (rest // num_splits).to(tl.int64), begin, end


@triton.jit
def cell_offset(n, columns, stride_y, stride_x):
    """Offset of the cell, or of the first cell of the patch, at flat position `n` of a grid with `columns` columns."""
    return (n // columns).to(tl.int64) * stride_y + (n % columns).to(tl.int64) * stride_x


@triton.jit
def tap_offset(tap, stride_y, stride_x, KW: tl.constexpr):
    """Offset from the first cell of a patch or prototype to its cell `tap`, int64."""
    return wide(tap // KW) * stride_y + wide(tap % KW) * stride_x


@triton.jit
def first_cell(position, columns, width, TAPS: tl.constexpr):
    """Cell of the map, `width` cells wide, at which the patch at `position` of a grid with `columns` columns begins."""
    if TAPS > 1:
        position = (position // columns) * width + position % columns
    return position


@triton.jit
def covering_patch(y, x, tap, inside, rows, columns, KW: tl.constexpr):
    """Row and column of the patch whose cell `tap` lies at (y, x), and whether `inside` holds and there is one."""
    row = y - tap // KW
    column = x - tap % KW
    return row, column, inside & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
