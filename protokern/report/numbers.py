"""Numbers as text for people."""

from __future__ import annotations

import math

TIMES = "\N{MULTIPLICATION SIGN}"
_NOTHING = "\N{EN DASH}"


def decimal(value: float) -> str:
    """A number with two decimals and a real minus sign; never "-0.00"."""
    text = f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def short(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share as per cent with one decimal; a dash if there is no number."""
    return _NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.1f}%"


def whole_percent(share: float) -> str:
    """A share as per cent without decimals: "93 %"; below one hundredth "under 1 %"."""
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %".replace("-", "\N{MINUS SIGN}")
