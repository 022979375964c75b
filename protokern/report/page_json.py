"""The JSON of a page as text that may stand in a script element."""

from __future__ import annotations

import base64
import json
from typing import Any

from protokern.report.images import Shelf

Table = dict[str, Any]
# Letters that may end a script or begin markup, as JSON escapes.
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


def to_json(table: Table, shelf: Shelf | None, *, beside: bool) -> str:
    """A page as text, safe inside a script element.

    Args:
        table: the page.
        shelf: its pictures; None: the table has their addresses.
        beside: the text has only the names of picture files beside the page; otherwise it holds the files.
    """
    stored = [] if shelf is None else shelf.pictures
    pictures = [one.name if beside else base64.b64encode(one.data).decode("ascii") for one in stored]
    whole = {**table, "beside": beside, "pictures": pictures}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, escape in _ESCAPES:
        text = text.replace(letter, escape)
    return text
