"""`protokern push`: every prototype of a trained model becomes its nearest training patch."""

from __future__ import annotations

import argparse

from protokern.cli.arguments import add_run_arguments
from protokern.cli.head_verb import run_head_step
from protokern.train.head_stages import push_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Push, write a checkpoint and the prototypes."""
    return run_head_step(args, "push", push_step)
