"""How much every visible property matters to the prototypes of a model, as one figure, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protokern.report.canvas import ACCENT, INK, MUTED, letters_told, save_figure
from protokern.report.fonts import drawable, find_families

_TRAIN, _TEST = ACCENT, "#c98a2b"
_ROW, _HEAD, _FOOT, _WIDTH = 0.62, 0.7, 0.7, 7.2  # inches


def write_importance_figure(names: Sequence[str], train: np.ndarray, test: np.ndarray, path: Path) -> None:
    """Draw the spread of the prototypes' scores for every property: one box for training images, one for test images.

    Properties are sorted by falling mean over the training images. A box holds the middle half of the prototypes; its
    line is the median, its dot the mean. The whiskers reach to the last prototype within one and a half lengths of the
    box.

    Args:
        names: (M) of the properties.
        train: (M, P) global scores over the training images.
        test: (M, P) over the test images.
        path: of the figure; the suffix (.png, .pdf, .svg) gives the format.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    order = np.argsort(-train.mean(axis=1), kind="stable")
    height = _HEAD + _ROW * len(names) + _FOOT
    figure = Figure(figsize=(_WIDTH, height), dpi=160, facecolor="white")
    axes = figure.add_axes((0.16, _FOOT / height, 0.8, 1 - (_HEAD + _FOOT) / height))
    for scores, colour, offset in ((train, _TRAIN, -0.18), (test, _TEST, 0.18)):
        axes.boxplot(
            [scores[row] for row in order],
            positions=[place + offset for place in range(len(names))],
            orientation="horizontal",
            widths=0.28,
            showfliers=False,
            showmeans=True,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.55, "edgecolor": colour},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            medianprops={"color": INK},
            meanprops={"marker": "o", "markersize": 4, "markerfacecolor": INK, "markeredgecolor": "white"},
        )
    axes.axvline(0, color=MUTED, linewidth=0.8)
    labels = [drawable(names[row]) for row in order]
    families = find_families("".join(labels), "sans-serif")
    axes.set_yticks(range(len(names)), labels, color=INK, parse_math=False, family=list(families.names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("similarity lost when the property is changed", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.text(0.02, 1 - 0.32 / height, "What matters to the prototypes", fontsize=13, family="serif", weight="bold")
    legend = [
        Patch(color=_TRAIN, alpha=0.55, label="training images"),
        Patch(color=_TEST, alpha=0.55, label="test images"),
    ]
    figure.legend(handles=legend, loc="upper right", bbox_to_anchor=(0.98, 1 - 0.12 / height), ncols=2, frameon=False)
    with letters_told(not families.is_complete):
        save_figure(figure, path)
