"""`protokern push`: every prototype of a trained model becomes its nearest training patch."""

from __future__ import annotations

import argparse

from protokern.cli.arguments import add_run_arguments
from protokern.cli.head_verb import run_head_step
from protokern.errors import ConfigError
from protokern.runs.open import OpenRun
from protokern.train.head_stages import push_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Push, write a checkpoint and the prototypes."""
    return run_head_step(args, "push", push_step, check=_check)


def _check(opened: OpenRun) -> None:
    if not opened.model.pushes:
        raise ConfigError(
            f"RUN: must be of a model whose prototypes are vectors; those of a {type(opened.model).__name__} are "
            "channels of its features, and need no push."
        )
