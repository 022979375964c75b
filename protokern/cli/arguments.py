"""Flags that several verbs share, and checks of their values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from protokern.errors import ConfigError

FIGURE_FORMATS = ("png", "pdf", "svg")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --data, --device and --set, for verbs that work on a trained model."""
    parser.add_argument("run", metavar="RUN", help="run folder, or one of its checkpoints")
    parser.add_argument("--data", metavar="DIR", help="data folder; default: the one the run was trained on")
    add_device_argument(parser)
    add_set_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; default: cuda if there is one")


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """--set, which may be repeated."""
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, such as train.batch_size=32; may be repeated",
    )


def add_frame_argument(parser: argparse.ArgumentParser) -> None:
    """--frame."""
    from protokern.explain.framing import (
        FRAMES,
    )  # imports torchvision, which is too slow for the --help of verbs that draw nothing

    parser.add_argument(
        "--frame",
        choices=FRAMES,
        default="sufficient",
        help="sufficient: the smallest box found that alone keeps nine tenths of the similarity (default); grid: where "
        "the match is strongest on the grid; paper: the box around the highest twentieth of the heat map",
    )


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """--format, of figures."""
    parser.add_argument("--format", choices=FIGURE_FORMATS, default="png", help="of the figures; default: png")


def add_only_argument(parser: argparse.ArgumentParser) -> None:
    """--only, to choose prototypes."""
    parser.add_argument("--only", metavar="N", nargs="+", type=int, help="only these prototypes; default: all")


def check_only(only: Sequence[int] | None, num_prototypes: int) -> list[int]:
    """The prototypes that --only means, ascending.

    Raises:
        ConfigError: there is no such prototype.
    """
    outside = [j for j in only or () if not 0 <= j < num_prototypes]
    if outside:
        raise ConfigError(f"--only: must be prototypes of 0 .. {num_prototypes - 1}; got {outside[0]}.")
    return list(range(num_prototypes)) if only is None else sorted(set(only))


def check_count(name: str, value: int) -> None:
    """Raise a ConfigError unless the flag `name` is at least 1."""
    if value < 1:
        raise ConfigError(f"--{name}: must be at least 1; got {value}.")
