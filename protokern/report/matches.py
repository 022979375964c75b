"""The page of patches beside their nearest training patches. It is drawn like the explanation of one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protokern.report.numbers import short
from protokern.report.view import Table, View
from protokern.results.matches import PatchMatch

_FRAME = "The patch that was compared. The net may have seen more than the frame: all within the dashed line."


def view_matches(matches: Sequence[PatchMatch], image: np.ndarray, metric: str) -> tuple[Table, Any]:
    """The page as a table, and its pictures."""
    view = View(links=False)
    largest = max((match.distance for match in matches), default=0.0) or 1.0
    rows = [
        {
            "here": view.place(match.here),
            "here_alt": "The image, with a patch in a frame",
            "here_heat": None,
            "here_heat_alt": "",
            "here_proof": "",
            "there": view.place(match.there),
            "there_alt": "A training image, with the nearest patch in a frame",
            "there_heat": None,
            "there_heat_alt": "",
            "there_proof": "",
            "no_patch": "",
            "link": "",
            "role": "",
            "caption": match.name,
            "product": "at a distance of",
            "points": short(match.distance),
            "share": round(match.distance / largest, 3),
            "against": False,
            "because": "",
        }
        for match in matches
    ]
    table = {
        "title": "Nearest training patches",
        "heading": "What else looks like this to the net?",
        "model": "",
        "item": {
            "name": "",
            "answer": "Nearest training patches",
            "picture": [view.shelf.find(image).index, *image.shape[:2]],
            "alt": "The image",
            "verdict": "",
            "truth": None,
            "unknown": "Patches of the image, each with the nearest patch of the training images. They are no reasons: "
            "the net did not decide by them.",
            "totals": [],
            "total_head": "",
            "why": ["This looks like that"],
            "first": {
                "reasons": rows,
                "none": None if rows else ["There are none."],
                "counted": None,
                "no_reasons": [],
                "ledger": [],
                "total": [["distances"], metric],
            },
            "others": [],
        },
        "reading": [
            ["", "Distance", [f"Of the vectors of two patches, {metric}; 0: they are equal."]],
            ["frame", "Frame", [_FRAME]],
        ],
    }
    return table, view.shelf
