"""Writes the tables of settings in docs/training.md, which `protokern settings` prints too. `make format` runs it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from protokern.config.describe import Setting, describe_settings

PAGE = Path(__file__).resolve().parents[1] / "docs/training.md"
BEGIN = "<!-- settings begin: made by `make format` from the docstrings of the configuration, do not edit -->\n"
END = "<!-- settings end -->\n"


def insert(page: str) -> str:
    """The page with the tables of today between its two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + _tables() + END + rest.split(END)[1]


def _tables() -> str:
    blocks = []
    for (table, model), settings in groupby(describe_settings(), lambda one: (one.table, one.model)):
        title = f'`[{table}]`, for `name = "{model}"`' if model else f"`[{table}]`"
        rows = [_row(list(alike)) for _, alike in groupby(settings, lambda one: (one.meaning, one.takes))]
        blocks.append("\n".join((title, "", "| key | default | takes | meaning |", "| --- | --- | --- | --- |", *rows)))
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _row(alike: list[Setting]) -> str:
    """One row for keys that share what their docstring says."""
    keys = ", ".join(f"`{one.name}`" for one in alike)
    defaults = ", ".join(f"`{one.default}`" if one.default else "not set" for one in alike)
    return f"| {keys} | {defaults} | {alike[0].takes} | {alike[0].meaning} |"


if __name__ == "__main__":
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
