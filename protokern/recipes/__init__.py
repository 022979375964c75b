"""Settings to begin with, a TOML file each: what `protokern train --recipe NAME` puts under --config and --set.

Without --recipe and --config a training begins with one of them all the same, see `default_recipe`.
"""

from __future__ import annotations

from pathlib import Path

from protokern.errors import ConfigError

RECIPES = ("quick", "fine", "paper")


def default_recipe(*, has_gpu: bool) -> str:
    """The recipe of a training that was given neither a recipe nor a file of settings."""
    return "fine" if has_gpu else "quick"


def recipe_text(name: str, argument: str = "--recipe") -> str:
    """The TOML file of a recipe; its first line is a comment that says what the recipe is for.

    Args:
        name: one of RECIPES.
        argument: what the error calls `name`.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"{argument}: must be one of {', '.join(RECIPES)}; got {name!r}. "
            "'protokern recipes' says what each of them is for."
        )
    return Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")


def recipe_purpose(name: str) -> str:
    """What a recipe is for, in one line."""
    return recipe_text(name).partition("\n")[0].removeprefix("#").strip()
