from __future__ import annotations

import io

import pytest

from protokern.cli.printing import show_warnings_once
from protokern.storage.names import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a  b\n c.", "a b c."),
        ("\x1b[2Jbird\x07.png", "\\x1b[2Jbird\\x07.png"),
        ("\u00e9t\u00e9 \u9ce5 \udce9", "\u00e9t\u00e9 \u9ce5 \udce9"),
        ("", ""),
    ],
)
def test_a_text_becomes_one_line_that_steers_no_terminal(text: str, line: str) -> None:
    assert one_line(text) == line


def test_a_warning_is_shown_once_in_a_run() -> None:
    file = io.StringIO()
    show = show_warnings_once()
    for message in ("one", "two", "one"):
        show(UserWarning(message), UserWarning, "file.py", 1, file=file)
    assert file.getvalue() == "warning: one\nwarning: two\n"
    show_warnings_once()("one", UserWarning, "file.py", 1, file=file)
    assert file.getvalue().count("one") == 2
