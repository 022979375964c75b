"""Flags that several verbs share, and what they mean."""

from __future__ import annotations

import argparse

import torch

from protokern.errors import BackendUnavailableError

FIGURE_FORMATS = ("png", "pdf", "svg")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --data, --device and --set: for the verbs that work on a trained model."""
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


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """--format, of figures."""
    parser.add_argument("--format", choices=FIGURE_FORMATS, default="png", help="of the figures; default: png")


def choose_device(name: str) -> torch.device:
    """The device that --device means.

    Raises:
        BackendUnavailableError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch raises each of them for a missing device
        reason = str(error).partition("\n")[0]
        raise BackendUnavailableError(
            f"--device: must be a device of this machine; got {name!r} ({reason}). Use cpu."
        ) from error
    return device
