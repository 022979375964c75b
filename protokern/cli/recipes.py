"""`protokern recipes [NAME]`: the recipes that `train --recipe` takes, and the settings of one of them."""

from __future__ import annotations

import argparse

from protokern.recipes import RECIPES, recipe_purpose, recipe_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="print the TOML of this recipe; default: list all")


def run(args: argparse.Namespace) -> int:
    """Print the recipes, or one of them.

    Raises:
        ConfigError: there is no such recipe.
    """
    if args.name is not None:
        print(recipe_text(args.name, "NAME"), end="")
        return 0
    longest = max(map(len, RECIPES))
    for name in RECIPES:
        print(f"{name:<{longest}}  {recipe_purpose(name)}")
    return 0
