"""`protokern prune`: remove prototypes from a trained model, by a rule or by their numbers."""

from __future__ import annotations

import argparse
from functools import partial

from protokern.cli.arguments import add_run_arguments
from protokern.cli.head_verb import run_head_step
from protokern.errors import ConfigError
from protokern.prune import choose_by_number
from protokern.runs.open import OpenRun
from protokern.train.head_stages import prune_by_number_step, prune_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    chosen = parser.add_mutually_exclusive_group()
    wanted = "numbers as in the report and prototypes.json"
    chosen.add_argument("--drop", metavar="N", nargs="+", type=int, help=f"drop these prototypes alone; {wanted}")
    chosen.add_argument("--keep", metavar="N", nargs="+", type=int, help=f"drop all prototypes but these; {wanted}")
    rules = "needed: those that are there twice and those that the answers do not need; compat: the paper's rule"
    chosen.add_argument("--rule", choices=("needed", "compat"), help=f"{rules}; default: prune.rule of the run")
    parser.add_argument(
        "--per-class",
        metavar="N",
        type=int,
        help="with the rule needed: each class keeps N prototypes, whatever is lost",
    )


def run(args: argparse.Namespace) -> int:
    """Prune by `prune.rule` or by number; write a checkpoint and the prototypes."""
    if args.per_class is not None and args.per_class < 1:
        raise ConfigError(f"--per-class: must be at least 1; got {args.per_class}.")
    if args.drop is None and args.keep is None:
        told = {"rule": args.rule, "per_class": args.per_class}
        args.changes += [f"prune.{name}={value}" for name, value in told.items() if value is not None]
        return run_head_step(args, "prune", prune_step, check=partial(_check_rule, per_class=args.per_class))
    if args.per_class is not None:
        raise ConfigError("--per-class: must be given with a rule; got --drop or --keep. Leave one of them out.")
    step = partial(prune_by_number_step, drop=args.drop, keep=args.keep)
    return run_head_step(args, "prune", step, check=partial(_check, drop=args.drop, keep=args.keep))


def _check_rule(opened: OpenRun, *, per_class: int | None) -> None:
    """Refuse a number of prototypes per class that the rule would ignore.

    Raises:
        ConfigError: --per-class is given with the rule `compat`.
    """
    if per_class is not None and opened.config.prune.rule != "needed":
        raise ConfigError("--per-class: must be given with the rule needed; got compat. Add --rule needed.")


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
