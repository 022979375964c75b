"""Curves of a run as points of an SVG drawing. This computes the positions; the scripts of the page draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from protokern.results.run import EpochPoint

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 448, 34, 230


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its position and its label."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its SVG points, its name and its last value for the legend."""

    name: str
    style: str
    points: str
    last: tuple[float, float]
    last_label: str


@dataclass(frozen=True, slots=True)
class Band:
    """A range of epochs of one stage."""

    name: str
    x0: float
    x1: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that is drawn. `summary` says it in words for readers who cannot see it."""

    title: str
    summary: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bands: tuple[Band, ...]


def accuracy_chart(epochs: Sequence[EpochPoint]) -> Chart:
    """Accuracy by epoch, in per cent from 0 to 100."""
    series = {
        "training": [100 * point.accuracy for point in epochs],
        "validation": [100 * point.val_accuracy for point in epochs],
    }
    return _chart("Accuracy, per cent", series, epochs, low=0.0, high=100.0, label="{:.1f}%")


def loss_chart(epochs: Sequence[EpochPoint]) -> Chart:
    """Loss by epoch: the whole training loss, and the cross entropy on the validation images."""
    series = {
        "training, all terms": [point.loss for point in epochs],
        "validation, cross entropy": [point.val_loss for point in epochs],
    }
    values = [0.0, *(value for curve in series.values() for value in curve if math.isfinite(value))]
    low, high = min(values), max(values)
    return _chart("Loss", series, epochs, low=low, high=high if high > low else low + 1, label="{:.2f}")


def _chart(
    title: str, series: dict[str, list[float]], epochs: Sequence[EpochPoint], *, low: float, high: float, label: str
) -> Chart:
    y_values = _round_steps(low, high)
    low, high = y_values[0], y_values[-1]
    step = (RIGHT - LEFT) / max(1, len(epochs) - 1)
    x_of = [LEFT + step * index if len(epochs) > 1 else (LEFT + RIGHT) / 2 for index in range(len(epochs))]

    def y_of(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    curves = []
    for (name, values), style in zip(series.items(), ("soft", "strong"), strict=True):
        places = [(x, y_of(value)) for x, value in zip(x_of, values, strict=True) if math.isfinite(value)]
        if places:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            last = next(value for value in reversed(values) if math.isfinite(value))
            curves.append(Curve(name, style, points, places[-1], label.format(last)))
    ends = ", ".join(f"{curve.name} ends at {curve.last_label}" for curve in curves)
    num_epochs = f"{len(epochs)} epoch{'' if len(epochs) == 1 else 's'}"
    return Chart(
        title=title,
        summary=f"{title} over {num_epochs}: {ends}.",
        curves=tuple(curves),
        x_ticks=_epoch_ticks(x_of),
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in y_values),
        bands=_stage_bands(epochs, x_of, step),
    )


def _round_steps(low: float, high: float) -> list[float]:
    """Four to seven round numbers that reach from at most `low` to at least `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _epoch_ticks(x_of: Sequence[float]) -> tuple[Tick, ...]:
    every = max(1, math.ceil(len(x_of) / 8))
    return tuple(Tick(x, str(index + 1)) for index, x in enumerate(x_of) if index % every == 0)


def _stage_bands(epochs: Sequence[EpochPoint], x_of: Sequence[float], step: float) -> tuple[Band, ...]:
    bands: list[Band] = []
    for point, x in zip(epochs, x_of, strict=True):
        x0, x1 = max(LEFT, x - step / 2), min(RIGHT, x + step / 2)
        if bands and bands[-1].name == point.stage:
            bands[-1] = Band(point.stage, bands[-1].x0, x1)
        else:
            bands.append(Band(point.stage, x0, x1))
    return tuple(bands)
