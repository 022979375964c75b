"""`protokern log RUN --tensorboard DIR | --wandb PROJECT`: the log of a run in a program that draws curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from protokern.config.run import read_toml
from protokern.errors import CheckpointError
from protokern.interop.loggers import LOG_FILE, follow_log, to_tensorboard, to_wandb
from protokern.runs.folder import RUN_FILE
from protokern.storage.lock import is_locked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --tensorboard or --wandb, --follow."""
    parser.add_argument("run", metavar="RUN", help="run folder, of a finished training or of one that goes on")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tensorboard", metavar="DIR", help="write an event file there, for tensorboard --logdir DIR")
    where.add_argument("--wandb", metavar="PROJECT", help="send the numbers to this project of Weights & Biases")
    parser.add_argument("--follow", action="store_true", help="stay until the training of the run ends")


def run(args: argparse.Namespace) -> int:
    """Hand the log over.

    Raises:
        CheckpointError: there is no such run, or its log is broken.
        ConfigError: its run.toml is broken.
        MissingPackageError: the program is not installed.
    """
    folder = Path(args.run)
    if not (folder / RUN_FILE).is_file():
        raise CheckpointError(f"{folder}: must be a run folder; it has no {RUN_FILE}. Give one that 'train' wrote.")
    records = follow_log(folder, is_over=lambda: not (args.follow and is_locked(folder)))
    if args.tensorboard is not None:
        count = to_tensorboard(records, Path(args.tensorboard))
        print(f"wrote {count} numbers of {folder / LOG_FILE} to {args.tensorboard}")
        return 0
    config = read_toml(folder / RUN_FILE)
    count = to_wandb(records, args.wandb, folder.resolve().name, config)
    print(f"sent {count} numbers of {folder / LOG_FILE} to {args.wandb}")
    return 0
