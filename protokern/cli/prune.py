"""`protokern prune`: prototypes whose nearest patches are mostly of other classes are dropped from a trained model."""

from __future__ import annotations

import argparse

from protokern.cli.arguments import add_run_arguments
from protokern.cli.head_verb import run_head_step
from protokern.train.head_stages import prune_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prune by `prune.k` and `prune.threshold`, write a checkpoint and the prototypes."""
    return run_head_step(args, "prune", prune_step)
