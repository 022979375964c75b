"""Which values of a file with more than 8 bits are black and white.

The same value must mean the same in every image of a run. So the range is a setting, measured once over the training
images if it is "auto", and never guessed per file within a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

# "auto", "type", or the values that become 0 and 1.
GreyRange = Literal["auto", "type"] | tuple[float, float]

AUTO: Final = "auto"
TYPE: Final = "type"
_BITS = (8, 10, 12, 14, 16)  # bit depths of cameras, scanners and detectors
# If nearly all values are in so small a part of the range, people see black pictures.
_DARK = 1 / 12


@dataclass(frozen=True, slots=True)
class Values:
    """The values in a file with more than 8 bits per channel.

    Attributes:
        smallest, largest: of all its pixels.
        usual: 99 % of them are at most this.
    """

    smallest: float
    largest: float
    usual: float


def check_grey_range(grey_range: object) -> GreyRange:
    """The range, if it is one.

    Raises:
        ValueError: it is neither a name nor two numbers, the smaller one first.
    """
    if grey_range == AUTO:
        return AUTO
    if grey_range == TYPE:
        return TYPE
    if isinstance(grey_range, (tuple, list)) and len(grey_range) == 2:
        low, high = (float(end) for end in grey_range)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise ValueError(
        f'grey_range: must be "auto", "type" or two numbers [low, high], low < high; got {grey_range!r}. '
        "Write for example [0, 4095]."
    )


def range_of(values: Values) -> tuple[float, float]:
    """0 to the largest value of the smallest of 8, 10, 12, 14 and 16 bits that hold these values.

    Raises:
        ValueError: they are negative, or need more bits.
    """
    if values.smallest < 0 or values.largest >= 2 ** _BITS[-1]:
        raise ValueError(
            f"grey values from {values.smallest:g} to {values.largest:g} have no known range; "
            "set data.grey_range = [low, high]"
        )
    return 0.0, float(next(2**bits - 1 for bits in _BITS if values.largest < 2**bits))


def ends_of(grey_range: GreyRange, measure: Callable[[], Values], *, is_float: bool) -> tuple[float, float]:
    """The values that become 0 and 1, for a file of more than 8 bits; `measure` gives its values.

    Raises:
        ValueError: its values have no known range.
    """
    if not isinstance(grey_range, str):
        return grey_range
    if is_float:
        raise ValueError("floating-point pixels have no known range; set data.grey_range = [low, high]")
    return range_of(measure()) if grey_range == AUTO else (0.0, 2.0**16 - 1)


def measure_range(files: Iterable[Values]) -> tuple[float, float] | None:
    """The range for all of these files together; None if there are none."""
    every = list(files)
    if not every:
        return None
    return range_of(
        Values(
            smallest=min(values.smallest for values in every),
            largest=max(values.largest for values in every),
            usual=max(values.usual for values in every),
        )
    )


def describe_range(grey_range: GreyRange, files: Iterable[Values], *, is_measured: bool) -> str:
    """One line for the log about files of more than 8 bits.

    Args:
        grey_range: the range in use.
        files: the values of all such files that were read, at least one.
        is_measured: whether it was measured just now.
    """
    every = list(files)
    count = f"{len(every):,} image{'s have' if len(every) != 1 else ' has'} more than 8 bits a channel"
    if grey_range == AUTO:
        return f"{count}: each is read by its own largest value, since no training image is such a one"
    low, high = (0.0, 2.0**16 - 1) if isinstance(grey_range, str) else grey_range
    words = f"{count}: {low:g} to {high:g} become black to white"
    if is_measured:
        bits = round(math.log2(high + 1))
        words += f" ({bits} bits, by the largest value of the training images; written to run.toml as data.grey_range)"
    cut = sum(values.smallest < low or values.largest > high for values in every)
    if cut:
        words += f"; {cut:,} of them {'have' if cut != 1 else 'has'} values outside of that, which are cut off"
    usual = sorted(values.usual for values in every)[len(every) // 2]
    if usual - low < (high - low) * _DARK:
        words += (
            f"; they will look dark, as 99 % of a usual one is at most {usual:g}: set data.grey_range = [low, high]"
        )
    return words
