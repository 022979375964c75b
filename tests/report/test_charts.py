from __future__ import annotations

import math

import pytest

from protokern.report.charts import BOTTOM, LEFT, RIGHT, TOP, accuracy_chart, loss_chart
from protokern.results.run import EpochPoint


def points(losses: list[float], stage: str = "joint") -> list[EpochPoint]:
    return [
        EpochPoint(stage=stage, epoch=epoch, loss=loss, val_loss=loss / 2, accuracy=0.5, val_accuracy=0.25)
        for epoch, loss in enumerate(losses)
    ]


def test_curves_go_from_corner_to_corner() -> None:
    chart = loss_chart(points([4.0, 2.0, 0.0]))
    assert [tick.label for tick in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert (
        chart.curves[0].points
        == f"{LEFT:.1f},{TOP:.1f} {(LEFT + RIGHT) / 2:.1f},{(TOP + BOTTOM) / 2:.1f} {RIGHT:.1f},{BOTTOM:.1f}"
    )
    assert chart.curves[1].last_label == "0.00"
    assert (
        chart.summary == "Loss over 3 epochs: training, all terms ends at 0.00, validation, cross entropy ends at 0.00."
    )


def test_accuracy_is_in_per_cent_of_the_whole() -> None:
    chart = accuracy_chart(points([1.0, 1.0]))
    assert [tick.label for tick in chart.y_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [curve.last_label for curve in chart.curves] == ["50.0%", "25.0%"]
    assert chart.curves[0].last == (RIGHT, (TOP + BOTTOM) / 2)


def test_stages_are_bands_without_gaps() -> None:
    chart = accuracy_chart([*points([1.0, 1.0], "warm"), *points([1.0] * 4)])
    assert [band.name for band in chart.bands] == ["warm", "joint"]
    assert chart.bands[0].x0 == LEFT
    assert chart.bands[0].x1 == pytest.approx(chart.bands[1].x0)
    assert chart.bands[1].x1 == RIGHT


def test_one_epoch_negative_and_missing_values_are_drawn() -> None:
    one = loss_chart(points([2.0]))
    assert one.curves[0].last[0] == (LEFT + RIGHT) / 2
    assert one.bands[0].x0 == LEFT
    negative = loss_chart(points([-1.0, -3.0]))
    assert float(negative.y_ticks[0].label) <= -3
    gap = loss_chart(points([2.0, math.nan, 1.0]))
    assert len(gap.curves[0].points.split()) == 2
    assert loss_chart(points([math.inf])).curves == ()


@pytest.mark.parametrize("high", [0.003, 0.7, 1.0, 9.99, 130.0, 4e6])
def test_axes_have_round_steps_that_hold_the_values(high: float) -> None:
    ticks = [float(tick.label) for tick in loss_chart(points([high, 0.0])).y_ticks]
    assert ticks[0] == 0
    assert ticks[-1] >= high * 0.9999
    assert 4 <= len(ticks) <= 8


def test_many_epochs_get_few_labels() -> None:
    assert len(accuracy_chart(points([1.0] * 300)).x_ticks) <= 8
