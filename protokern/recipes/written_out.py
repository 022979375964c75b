"""A recipe as a file of settings for one data folder, with its comments."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from protokern.recipes import recipe_text

_KEY = re.compile(r"(\w+) = ([^#]*?)( *#.*)?")
_COMMENTS_FROM = 33  # column, as in the recipes


def write_out(recipe: str, data: str, sizes: Mapping[str, Mapping[str, Any]], heading: Sequence[str]) -> str:
    """The TOML of a recipe for the data at `data`.

    Args:
        recipe: one of `protokern.recipes.RECIPES`.
        data: as `data.path` has it.
        sizes: settings that follow the data, by table; they replace those of the recipe.
        heading: lines above the comments of the recipe, instead of its first two.

    Raises:
        ConfigError: no such recipe.
    """
    _, _, *body = recipe_text(recipe).splitlines()
    lines = [f"# {line}" for line in heading]
    table = ""
    for line in body:
        if line.startswith("["):
            table = line.strip("[] ")
        lines.append(_with_size(line, sizes.get(table, {})))
        if line == "[data]":
            lines.append(f"path = {json.dumps(data, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _with_size(line: str, sizes: Mapping[str, Any]) -> str:
    """A line of a recipe, with the size instead of its value if they differ."""
    found = _KEY.fullmatch(line)
    if found is None or found[1] not in sizes:
        return line
    size = sizes[found[1]]
    if tomllib.loads(f"value = {found[2]}")["value"] == size:
        return line
    return f"{found[1]} = {json.dumps(size)}".ljust(_COMMENTS_FROM - 1) + " # follows the data"
