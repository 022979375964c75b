"""`protokern train`: from data and a configuration to a run folder.

Here are its flags and what can be checked before torch is imported, which takes seconds. `training.py` does the work.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from protokern.cli.arguments import add_device_argument, add_set_argument
from protokern.config import RunConfig, load_config
from protokern.config.run import fits_recipe, with_data
from protokern.data.account import PassedOver
from protokern.data.layout import find_images
from protokern.data.places import is_photo_folder
from protokern.errors import ConfigError
from protokern.recipes import RECIPES, default_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"settings to begin with, which --config and --set change: {', '.join(RECIPES)}; see 'protokern recipes'; "
        "default without --config: quick on a CPU, fine on a GPU",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file; see examples/configs")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with train/, test/, perhaps val/, or with class folders alone; default: synthetic birds",
    )
    parser.add_argument(
        "--out",
        metavar="RUN",
        help="run folder to write; default: the first free one of runs/NAME-1, -2 ... for data NAME",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    parser.add_argument(
        "--resume-from",
        metavar="RUN2",
        help="begin a new run with the net and the settings of RUN2, such as one of 'protokern edit': what was "
        "forbidden there does not come back; --recipe, --config and --set change its settings of training",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="leave the page to a later 'protokern report RUN'",
    )
    add_device_argument(parser)
    add_set_argument(parser)
    parser.epilog = "'protokern settings' prints every setting that --config and --set take."


def run(args: argparse.Namespace) -> int:
    """Train, then write the prototypes and the page of the run."""
    if args.resume and args.resume_from is not None:
        raise ConfigError(
            "--resume-from: must be left out with --resume, which goes on within the run of --out; got both. Give one."
        )
    is_new = not args.resume and args.resume_from is None  # other settings are those of a run, which torch reads
    if is_new and int(os.environ.get("WORLD_SIZE", "1")) == 1:  # several processes agree on who reports
        check_settings(config=args.config, changes=args.changes, recipe=args.recipe, data=args.data)
    from protokern.cli.training import run_training  # with torch, which takes seconds

    return run_training(args)


def check_settings(
    *, config: str | None = None, changes: Sequence[str] = (), recipe: str | None = None, data: str | None = None
) -> None:
    """Refuse wrong settings, and a data folder that is not there or is not one of classes. Torch is not imported.

    Raises:
        ConfigError, DataError: as in the training.
    """
    path = with_data(_some_config(config, changes, recipe), data).data.path
    if is_photo_folder(path):
        find_images(Path(path), PassedOver())


def _some_config(config: str | None, changes: Sequence[str], recipe: str | None) -> RunConfig:
    """The configuration of a training; where the device decides on the recipe, one of the two."""
    if recipe is not None or config is not None:
        return load_config(config, changes, recipe)
    quick, fine = (default_recipe(has_gpu=has_gpu) for has_gpu in (False, True))
    if not fits_recipe(quick, changes):
        return load_config(None, changes)
    try:
        return load_config(None, changes, quick)
    except ConfigError:
        return load_config(None, changes, fine)
