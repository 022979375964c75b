"""`protokern prune`: prototypes are dropped from a trained model, by what is nearest to them or by their numbers."""

from __future__ import annotations

import argparse
from functools import partial

from protokern.cli.arguments import add_run_arguments
from protokern.cli.head_verb import run_head_step
from protokern.cli.runs import OpenRun
from protokern.errors import ConfigError
from protokern.prune import choose_by_number
from protokern.train.head_stages import prune_by_number_step, prune_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    chosen = parser.add_mutually_exclusive_group()
    wanted = "numbers as in the report and prototypes.json"
    chosen.add_argument("--drop", metavar="N", nargs="+", type=int, help=f"drop these prototypes alone; {wanted}")
    chosen.add_argument("--keep", metavar="N", nargs="+", type=int, help=f"drop all prototypes but these; {wanted}")


def run(args: argparse.Namespace) -> int:
    """Prune by `prune.k` and `prune.threshold`, or by number; write a checkpoint and the prototypes."""
    if args.drop is None and args.keep is None:
        return run_head_step(args, "prune", prune_step)
    step = partial(prune_by_number_step, drop=args.drop, keep=args.keep)
    return run_head_step(args, "prune", step, check=partial(_check, drop=args.drop, keep=args.keep))


def _check(opened: OpenRun, *, drop: list[int] | None, keep: list[int] | None) -> None:
    """Refuse wrong numbers before any image is read.

    Raises:
        ConfigError: as `choose_by_number`.
    """
    if not opened.model.is_hard:
        raise ConfigError(
            "--drop, --keep: must be given for a model with final choices; the classes of this one still choose their "
            "prototypes. Make the choices final with 'protokern push RUN', and look at the report."
        )
    try:
        choose_by_number(opened.model, drop=drop, keep=keep, classes=opened.classes)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
