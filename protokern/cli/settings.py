"""`protokern settings [PREFIX]`: every key of a configuration, with its default, its allowed values and its meaning."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby

from protokern.config.describe import Setting, describe_settings
from protokern.errors import ConfigError

INDENT = " " * 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PREFIX."""
    parser.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        default="",
        help="only keys that begin so, with or without their table: data, train.live, birds; default: all",
    )


def run(args: argparse.Namespace) -> int:
    """Print the settings.

    Raises:
        ConfigError: no key begins with PREFIX.
    """
    width = shutil.get_terminal_size().columns
    chosen = choose(describe_settings(), args.prefix)
    for number, ((table, model), of_table) in enumerate(groupby(chosen, lambda one: (one.table, one.model))):
        print("\n" * bool(number) + f"[{table}]" + f' with name = "{model}"' * bool(model))
        for meaning, alike in groupby(of_table, lambda one: one.meaning):
            for one in alike:
                print(f"{one.key} = {one.default}" if one.default else f"{one.key} is not set", f" # {one.takes}")
            print(textwrap.fill(meaning, width, initial_indent=INDENT, subsequent_indent=INDENT))
    return 0


def choose(settings: Sequence[Setting], prefix: str) -> list[Setting]:
    """The settings whose key begins with `prefix`, with or without its table.

    Raises:
        ConfigError: no key does.
    """
    chosen = [one for one in settings if one.key.startswith(prefix) or one.name.startswith(prefix)]
    if not chosen:
        keys = dict.fromkeys(name for one in settings for name in (one.table, one.name, one.key))
        close = difflib.get_close_matches(prefix, keys, n=1)
        hint = f"Did you mean {close[0]}?" if close else "Leave it out to see all."
        raise ConfigError(f"PREFIX: must be the beginning of a setting; got {prefix!r}. {hint}")
    return chosen
