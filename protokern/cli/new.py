"""`protokern new DIR`: a commented TOML with the settings that a training on this folder would use."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from protokern.cli.train import check_settings
from protokern.errors import ConfigError
from protokern.recipes import RECIPES, default_recipe
from protokern.recipes.sizes import SIZED, sizes_for
from protokern.recipes.written_out import write_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """DIR, --recipe, --out, --replace."""
    parser.add_argument("data", metavar="DIR", help="data folder, as of train --data")
    parser.add_argument("--recipe", metavar="NAME", help=f"{', '.join(RECIPES)}; default: the one that train would use")
    parser.add_argument("--out", metavar="FILE", help="the file to write; default: NAME.toml for data NAME")
    parser.add_argument("--replace", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Write the file; say where it is and how to train with it.

    Raises:
        ConfigError: there is such a file already, it would be among the data, or there is no such recipe.
        DataError: the data cannot be used.
    """
    check_settings(recipe=args.recipe, data=args.data)
    from protokern.config import load_config  # what follows imports torch, which takes seconds
    from protokern.config.run import with_data
    from protokern.data.places import name_of
    from protokern.runs.data import count_data, data_folder
    from protokern.runs.open import choose_device
    from protokern.runs.outputs import is_inside
    from protokern.storage.files import write_file

    recipe = args.recipe or default_recipe(has_gpu=choose_device("auto").type != "cpu")
    config = with_data(load_config(None, recipe=recipe), args.data)
    out = Path(args.out or f"{name_of(config.data.path)}.toml")
    folder = data_folder(config)
    if folder is not None and is_inside(out, folder):
        raise ConfigError(f"--out: must be outside of the data folder {folder}; got {out}. Give another place.")
    if os.path.lexists(out) and not args.replace:
        raise ConfigError(f"--out: must be a new file; got {out}, which exists. Give another name, or --replace.")
    amount = count_data(config)
    told = f"{amount.images:,} training images of {amount.classes:,} classes"
    command = f"protokern train --config {shlex.quote(str(out))}"
    heading = [f"The recipe {recipe} for {told}. Written by 'protokern new'; change what you like.", f"  {command}"]
    sizes = sizes_for(amount.images, amount.classes) if recipe == SIZED else {}
    write_file(out, write_out(recipe, config.data.path, sizes, heading).encode())
    print(f"wrote {out}: the recipe {recipe} for {told}")
    print(f"train with it: {command}")
    return 0
